"""Sphinx makes the documentation site of the repository's Markdown files and of docstrings; see `make docs`.

The source folder is the repository, so that links among README.md, docs/ and benchmarks/results/ are the same on the
site and where the files are read as they are.
"""

from __future__ import annotations

from diffad_ray.versions import VERSION

project = "diffad_ray"
author = "The diffad_ray developers"
release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = ["*.md", "docs/*.md", "docs/*.rst", "benchmarks/results/*.md"]
root_doc = "docs/index"

# Headings get the anchors that GitHub gives them. A link to a file or an anchor that is not there is a warning, and
# `make docs` fails at warnings.
myst_heading_anchors = 4
# Of blocks of code that name no language.
highlight_language = "text"
# Docstrings are written like Markdown: what stands between single backticks is code.
default_role = "code"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
# As parameters are written, since several attributes may share a line.
napoleon_custom_sections = [("Attributes", "params_style")]
maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"diffad_ray {VERSION}"
# The first page lies beside the others, in docs/; this one leads there.
templates_path = ["."]
html_additional_pages = {"index": "first.html"}
html_copy_source = False
html_show_copyright = False
