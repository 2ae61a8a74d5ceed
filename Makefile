# Everything runs from .venv; a target installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin
# Workers of Ray are separate processes; none may take the time of the others' threads.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test test-long lint bench docs mutants clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# The site's tools are for those who build it, and for nobody else.
.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

demo: install
	$(BIN)/diffad-ray demo --output demo-output

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	# Files side by side; the tests of a file share its cluster and servers.
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long" --durations=40

# Spark is large, and needs Java: apt-get install default-jre-headless
.venv/installed-engines: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,engines,tensorboard]'
	touch $@

test-long: .venv/installed-engines
	# Spark, servers and clusters of many nodes, which take minutes each.
	$(BIN)/pytest -m long

mutants: install
	$(BIN)/python benchmarks/mutants.py

bench: install
	$(BIN)/python benchmarks/scoring.py

docs: .venv/installed-docs
	# All pages anew: of pages that are as they were, Sphinx would not say again which links are broken.
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet -c docs/site . build/docs
	@echo 'The site begins at build/docs/index.html'

clean:
	rm -rf .venv demo-output build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
