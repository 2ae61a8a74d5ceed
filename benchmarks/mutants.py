"""Whether the tests can fail: small faults are put into modules one by one, and the nearest tests should fail for each.

    make mutants                                          # all modules of `[tool.mutants]` in pyproject.toml
    python benchmarks/mutants.py table/lease scoring/plan --share 0.5
    python benchmarks/mutants.py --again                  # those that survived

A fault swaps an operator, a comparison, a constant, a word of SQL, or takes a statement away. The wording of messages
is left alone. Modules run side by side, each in a copy of the repository. Tests run in a process that is forked after
all that does not change was imported, and only those tests run that reach the changed statement.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mutations import mutants

ROOT = Path(__file__).parents[1]
PRELOADED = """pytest hypothesis duckdb pyarrow.parquet numpy cv2 torch fsspec s3fs obstore boto3 moto.server PIL pandas
pydantic rich.console simplejpeg safetensors.torch sklearn.metrics"""
WAITED = 4


class Verdict(NamedTuple):
    module: str
    line: int
    change: str
    result: str
    seconds: float


class Reach:
    """A pytest plugin: which tests reach which lines of a module, how long they take, and which fail.

    What a fixture reaches counts for all tests that use it, also if it is made once for several.
    """

    def __init__(self, module: Path):
        self.module = str(module)
        self.lines: dict[str, set[int]] = {}
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.now: set[int] = set()
        self.of_fixtures: dict[object, set[int]] = {}

    def _trace(self, frame: Any, event: str, _: object) -> Any:
        if frame.f_code.co_filename != self.module:
            return None
        self.now.add(frame.f_lineno)
        return self._trace

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = self.lines.setdefault(nodeid, set())
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: object) -> Iterator[None]:
        around, self.now = self.now, self.of_fixtures.setdefault(fixturedef, set())
        try:
            return (yield)
        finally:
            self.now = around

    def pytest_runtest_teardown(self, item: Any) -> None:
        for used in item._fixtureinfo.name2fixturedefs.values():
            self.now.update(*(self.of_fixtures.get(fixture, ()) for fixture in used))

    def pytest_runtest_logfinish(self) -> None:
        sys.settrace(None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def in_child(copied: Path, work: Callable[[], int], limit: float) -> int | None:
    """The status of work that a forked process does in a copy of the repository; None: it took too long.

    The limit is in seconds of CPU, or `WAITED` times as many by the clock, since a busy machine is no endless loop.
    """
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 1))
        quiet = os.open(copied / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(copied)
        sys.path[:0] = [str(copied), str(copied / "tests")]
        os.environ["PYTHONPATH"] = str(copied)
        status = 70
        try:
            status = work()
        finally:
            os._exit(status)
    deadline = time.monotonic() + WAITED * limit
    status = None
    while status is None and time.monotonic() < deadline:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if ended else None
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what the tests have started
    if status is None:
        os.waitpid(child, 0)
    return None if status in (-signal.SIGXCPU, -signal.SIGKILL) else status


def _pytest(arguments: list[str], *plugins: object) -> int:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no"]
    return int(pytest.main([*options, *arguments], plugins=list(plugins)))


class Kept:
    """The file of all verdicts. It is written after each of them, so that a run that is ended leaves what it found."""

    def __init__(self, file: Path):
        self.file = file
        self.lock = threading.Lock()
        self.of: dict[str, list[Verdict]] = {}
        for values in json.loads(file.read_text()) if file.exists() else []:
            self.of.setdefault(values["module"], []).append(Verdict(**values))

    def put(self, module: str, verdicts: list[Verdict]) -> None:
        with self.lock:
            self.of[module] = list(verdicts)
            self.file.write_text(json.dumps([one._asdict() for found in self.of.values() for one in found], indent=1))


def judge(module: str, tests: list[str], deselected: str, share: float, kept: Kept, again: bool) -> None:
    """Try the faults of a module, or a share of them, or those again that survived earlier, and keep the verdicts."""
    earlier = kept.of.get(module, []) if again else None
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copied = Path(folder)
        for name in ("diffad_ray", "tests", "benchmarks", "docs"):
            shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copied)
        target = copied / module
        source = target.read_text()

        def learn() -> int:
            reach = Reach(target)
            # The only run that leaves bytecode behind: of modules that stay as they are, and of the tests.
            sys.dont_write_bytecode = False
            status = _pytest([*tests, "-k", deselected], reach)
            found = {"lines": {test: sorted(lines) for test, lines in reach.lines.items()}, "seconds": reach.seconds}
            (copied / "reach.json").write_text(json.dumps(found))
            return status

        if in_child(copied, learn, 600) != 0:
            raise SystemExit(f"the tests of {module} fail without a fault:\n{(copied / 'output.txt').read_text()}")
        for bytecode in target.parent.glob(f"__pycache__/{target.stem}.*"):
            bytecode.unlink()
        reach = json.loads((copied / "reach.json").read_text())
        seconds = reach["seconds"]
        verdicts: list[Verdict] = []
        untried: list[Verdict] = []
        every = list(mutants(source))
        chosen = every[:: max(1, round(1 / share))]
        if earlier is not None:
            verdicts = [verdict for verdict in earlier if verdict.result != "survived"]
            # By the change alone, as lines move; of changes that are alike, all.
            untried = [verdict for verdict in earlier if verdict.result == "survived"]
            changes = {verdict.change for verdict in untried}
            chosen = [mutant for mutant in every if mutant.change in changes][: len(untried)]
        for mutant in chosen:
            nearest = [t for t, lines in reach["lines"].items() if mutant.lines and {*mutant.lines} & {*lines}]
            nearest = sorted(nearest or reach["lines"], key=lambda test: seconds[test])
            start = time.monotonic()
            target.write_text(mutant.source)
            limit = 20 + 3 * sum(seconds[test] for test in nearest)
            status = in_child(copied, lambda nearest=nearest: _pytest(nearest), limit)  # type: ignore[misc]
            result = "survived" if status == 0 else "timeout" if status is None else "caught"
            verdicts.append(Verdict(module, mutant.line, mutant.change, result, round(time.monotonic() - start, 1)))
            if result == "survived":
                print(f"{module}:{mutant.line} {mutant.change}", flush=True)
            untried = untried[1:]
            kept.put(module, verdicts + untried)
        print(f"{module}: {_figures(verdicts)}", flush=True)


def _figures(verdicts: list[Verdict]) -> str:
    survived = sum(verdict.result == "survived" for verdict in verdicts)
    caught = len(verdicts) - survived
    return f"{len(verdicts)} mutants, {caught} caught ({caught / max(1, len(verdicts)):.1%}), {survived} survived"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of paths of modules; all of pyproject.toml by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants of each module that are tried")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--json", default="mutants.json", help="file for all verdicts")
    parser.add_argument("--again", action="store_true", help="try only what survived, as that file says, and change it")
    options = parser.parse_args()
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    modules = {
        module: tests
        for module, tests in configured["modules"].items()
        if not options.modules or any(wanted in module for wanted in options.modules)
    }
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(prefix="mutants-") as kept:
        os.environ["DIFFAD_RAY_TINY_DETECTOR"] = f"{kept}/weave"
        for name in PRELOADED.split():
            __import__(name)
        from hypothesis import settings

        settings.register_profile("mutants", deadline=None, max_examples=30)
        settings.load_profile("mutants")
        verdicts = Kept(Path(options.json))
        with ThreadPoolExecutor(options.jobs) as pool:
            work = [
                pool.submit(judge, module, tests, configured["deselected"], options.share, verdicts, options.again)
                for module, tests in modules.items()
            ]
            for done in as_completed(work):
                done.result()
    print(f"all: {_figures([verdict for found in verdicts.of.values() for verdict in found])}")


if __name__ == "__main__":
    main()
