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
import ast
import copy
import json
import os
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

ROOT = Path(__file__).parents[1]
PRELOADED = "pytest hypothesis duckdb pyarrow.parquet numpy cv2 torch fsspec s3fs obstore boto3 moto.server PIL pandas"
OPERATORS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip
GUARDS = ("strict", "frozen", "kw_only")
SQL = (
    "SELECT ",
    "FROM ",
    " JOIN ",
    "WHERE ",
    "ORDER BY",
    "coalesce(",
    "FILTER",
    "CASE ",
    "count(",
    "NOT ",
    " OR ",
    "::",
)
WORDS = (
    (" AND ", " OR "), (" OR ", " AND "), ("SEMI JOIN", "ANTI JOIN"), ("ANTI JOIN", "SEMI JOIN"), ("LEFT JOIN", "JOIN"),
    (" DESC", ""), ("NOT ", ""), (">=", ">"), ("<>", "="), (" > ", " >= "), (" < ", " <= "), ("min(", "max("),
    ("max(", "min("), ("true", "false"), ("false", "true"), ("DISTINCT ", ""), (" IS NULL", " IS NOT NULL"),
    (" = ", " <> "),
)  # fmt: skip


class Mutant(NamedTuple):
    """A fault: where, what, the module with it, and the lines whose tests should notice; none: those of all lines."""

    line: int
    change: str
    source: str
    lines: range | None


class Verdict(NamedTuple):
    module: str
    line: int
    change: str
    result: str
    seconds: float


def mutants(source: str) -> Iterator[Mutant]:
    """All faults of a module."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        for changed in _changes(node, parents):
            memo: dict[int, Any] = {id(node): changed}
            # Copied with the changed node in place of the node.
            mutated = ast.fix_missing_locations(copy.deepcopy(tree, memo))
            before, after = _shown(node), _shown(changed)
            yield Mutant(node.lineno, f"{before} -> {after}", ast.unparse(mutated), _lines(node, parents))


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:160]


def _lines(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> range | None:
    """The lines of the statement around a node; None outside of functions, where importing runs them."""
    while not isinstance(node, ast.stmt):
        node = parents[node]
    around, inside = node, False
    while around in parents:
        around = parents[around]
        inside |= isinstance(around, ast.FunctionDef)
    body = getattr(node, "body", None)
    if not inside or isinstance(node, ast.FunctionDef | ast.ClassDef):
        return None
    end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
    return range(node.lineno, max(end, node.lineno + 1))


def _changes(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    """What a node may be changed to."""

    def with_(**values: Any) -> ast.AST:
        changed = copy.copy(node)
        for name, value in values.items():
            setattr(changed, name, value)
        return changed

    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            if type(op) in OPERATORS:
                yield with_(ops=[*node.ops[:k], OPERATORS[type(op)](), *node.ops[k + 1 :]])
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        if not (isinstance(node, ast.BinOp) and _in_annotation(node, parents)):
            yield with_(op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.UnaryOp):
        yield with_(test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield with_(value=ast.Constant(None))
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
        if ast.unparse(node).startswith("log."):
            return
        yield ast.copy_location(ast.Pass(), node)
    elif isinstance(node, ast.Continue | ast.Break):
        yield ast.copy_location(ast.Break() if isinstance(node, ast.Continue) else ast.Continue(), node)
    elif isinstance(node, ast.Constant) and not _in_annotation(node, parents):
        for value in _values(node.value, parents[node]):
            yield with_(value=value)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _values(value: object, parent: ast.AST) -> Iterator[object]:
    """What a constant may be changed to; some arguments only guard against faults of ours."""
    if isinstance(parent, ast.keyword) and parent.arg in GUARDS:
        return
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    elif isinstance(value, str) and not isinstance(parent, ast.Expr):
        if any(word in value for word in SQL):
            yield from (value.replace(old, new, 1) for old, new in WORDS if old in value)
        elif any(map(str.isalnum, value)) and " " not in value.strip() and not isinstance(parent, ast.FormattedValue):
            yield f"X{value}"


def _in_annotation(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while node in parents:
        child, node = node, parents[node]
        if child in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            return True
        if isinstance(node, ast.stmt):
            return False
    return False


class Reach:
    """A pytest plugin: which tests reach which lines of a module, how long they take, and which fail."""

    def __init__(self, module: Path):
        self.module = str(module)
        self.lines: dict[str, set[int]] = {}
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.now: set[int] = set()

    def _trace(self, frame: Any, event: str, _: object) -> Any:
        if frame.f_code.co_filename != self.module:
            return None
        self.now.add(frame.f_lineno)
        return self._trace

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = self.lines.setdefault(nodeid, set())
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def pytest_runtest_logfinish(self) -> None:
        sys.settrace(None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def in_child(copied: Path, work: Callable[[], int], limit: float) -> int | None:
    """The status of work that a forked process does in a copy of the repository; None: it took too long."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
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
    deadline = time.monotonic() + limit
    status = None
    while status is None and time.monotonic() < deadline:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if ended else None
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what the tests have started
    if status is None:
        os.waitpid(child, 0)
    return status


def _pytest(arguments: list[str], *plugins: object) -> int:
    import pytest

    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no"]
    return int(pytest.main([*options, *arguments], plugins=list(plugins)))


def judge(module: str, tests: list[str], deselected: str, share: float, earlier: list[Verdict] | None) -> list[Verdict]:
    """Try the faults of a module, or a share of them, or those again that survived earlier."""
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

        if in_child(copied, learn, 900) != 0:
            raise SystemExit(f"the tests of {module} fail without a fault:\n{(copied / 'output.txt').read_text()}")
        for bytecode in target.parent.glob(f"__pycache__/{target.stem}.*"):
            bytecode.unlink()
        reach = json.loads((copied / "reach.json").read_text())
        seconds = reach["seconds"]
        verdicts = []
        every = list(mutants(source))
        chosen = every[:: max(1, round(1 / share))]
        if earlier is not None:
            verdicts = [verdict for verdict in earlier if verdict.result != "survived"]
            # By the change alone, as lines move; of changes that are alike, all.
            again = {verdict.change for verdict in earlier if verdict.result == "survived"}
            chosen = [mutant for mutant in every if mutant.change in again][: len(earlier) - len(verdicts)]
        for mutant in chosen:
            nearest = [t for t, lines in reach["lines"].items() if mutant.lines and {*mutant.lines} & {*lines}]
            nearest = sorted(nearest or reach["lines"], key=lambda test: seconds[test])
            start = time.monotonic()
            target.write_text(mutant.source)
            limit = 30 + 5 * sum(seconds[test] for test in nearest)
            status = in_child(copied, lambda nearest=nearest: _pytest(nearest), limit)  # type: ignore[misc]
            result = "survived" if status == 0 else "timeout" if status is None else "caught"
            verdicts.append(Verdict(module, mutant.line, mutant.change, result, round(time.monotonic() - start, 1)))
            if result == "survived":
                print(f"{module}:{mutant.line} {mutant.change}", flush=True)
        print(f"{module}: {_figures(verdicts)}", flush=True)
        return verdicts


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
        kept_verdicts = Path(options.json)
        earlier = _read(kept_verdicts) if kept_verdicts.exists() else {}
        with ThreadPoolExecutor(options.jobs) as pool:

            def work(module: str) -> tuple[str, list[Verdict]]:
                before = earlier.get(module, []) if options.again else None
                return module, judge(module, modules[module], configured["deselected"], options.share, before)

            for done in as_completed([pool.submit(work, module) for module in modules]):
                module, earlier[module] = done.result()
                everything = [verdict._asdict() for verdicts in earlier.values() for verdict in verdicts]
                kept_verdicts.write_text(json.dumps(everything, indent=1))
    print(f"all: {_figures([verdict for verdicts in earlier.values() for verdict in verdicts])}")


def _read(file: Path) -> dict[str, list[Verdict]]:
    """Verdicts by module."""
    found: dict[str, list[Verdict]] = {}
    for values in json.loads(file.read_text()):
        found.setdefault(values["module"], []).append(Verdict(**values))
    return found


if __name__ == "__main__":
    main()
