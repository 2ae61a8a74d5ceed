"""Reads the versions on each node. A node of another version may lack this module, so the function is sent as code."""

from __future__ import annotations

from collections.abc import Callable


def versions_reader() -> Callable[[], dict[str, str]]:
    """Return a function that returns the versions of Python, Ray, torch and diffad_ray by name.

    The function is local, so it is pickled as code and not by its name.
    """

    def versions() -> dict[str, str]:
        import hashlib
        import importlib.util
        import re
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path
        from platform import python_version

        found = {"Python": python_version()}
        for name in ("ray", "torch"):
            try:
                # Nodes may have builds for CUDA and for CPUs: 2.9.0+cpu is 2.9.0.
                found[name] = version(name).partition("+")[0]
            except PackageNotFoundError:
                found[name] = "not installed"
        spec = importlib.util.find_spec("diffad_ray")
        if spec is None or not spec.submodule_search_locations:
            found["diffad_ray"] = "not installed"
            return found
        # Two checkouts may have the same version and different code.
        folder, digest = Path(next(iter(spec.submodule_search_locations))), hashlib.sha256()
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        stated = re.search(r'^VERSION = "(.+)"', (folder / "versions.py").read_text(), re.MULTILINE)
        found["diffad_ray"] = f"{stated[1] if stated else '?'} (source {digest.hexdigest()[:8]})"
        return found

    return versions
