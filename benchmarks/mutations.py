"""The faults that `mutants.py` puts into a module: a changed operator, comparison, constant or word of SQL, or a
statement taken away."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    elif isinstance(node, ast.Return) and node.value is not None and not _is_empty(node.value):
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


def _is_empty(node: ast.expr) -> bool:
    """Whether a result is None, or False, which a caller does not tell from None; False also becomes True."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


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
