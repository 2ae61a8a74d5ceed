"""Tokens of clients: who may ask what.

A token is a line `NAME SCOPES TOKEN`, in a file or in the environment variable `DIFFAD_RAY_TOKENS`:

    line1      score        9f2c6a...
    operator   score,admin  77d01b...

The name appears in logs, the token never does.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from diffad_ray.errors import UserError
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.settings import NAME

Scope = Literal["score", "admin"]
VARIABLE = "DIFFAD_RAY_TOKENS"
SHORTEST = 16
"Characters of a token; shorter ones can be guessed."
ANYONE = "anyone"
"Name of clients where no tokens are set up."


class Client(NamedTuple):
    """Who holds a token; the token itself is kept as a hash alone."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes


def read_tokens(file: str | None) -> list[Client]:
    """Return the clients of a file and of the environment.

    Raises:
        UserError: the file can't be read or a line can't be understood; the message contains no token.
    """
    clients = _parsed(os.environ.get(VARIABLE, "").splitlines(), f"the environment variable {VARIABLE}")
    if file is not None:
        try:
            clients += _parsed(Path(file).read_text(encoding="utf-8").splitlines(), f"the file {file}")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the tokens in {file} can't be read: {error}") from error
        if not clients:
            raise UserError(f"the file {file} holds no token: write a line NAME SCOPES TOKEN for each client")
    return clients


def _parsed(lines: Iterable[str], source: str) -> list[Client]:
    clients = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 3:
            raise UserError(f"line {number} of {source} must be NAME SCOPES TOKEN, with blanks between them")
        name, scopes, token = fields
        if not NAME.fullmatch(name):
            raise UserError(f"line {number} of {source}: the name must be letters, digits, '.', '_' and '-'")
        if unknown := set(scopes.split(",")) - set(get_args(Scope)):
            raise UserError(f"line {number} of {source}: {min(unknown)!r} is no scope; take score, admin or both")
        if len(token) < SHORTEST:
            raise UserError(f"line {number} of {source}: a token needs {SHORTEST} characters at least")
        clients.append(Client(name, frozenset(cast(list[Scope], scopes.split(","))), _digest(token)))
    return clients


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def authorised(clients: list[Client], authorization: str | None, scope: Scope) -> str:
    """Return the name of the client that a request comes from.

    The comparison takes the same time for every token, right or wrong.

    Args:
        clients: those that may ask; empty: anyone may, because the port is bound to loopback.
        authorization: the request's header.

    Raises:
        Refused: 401 without a valid token, 403 for a token without the scope.
    """
    if not clients:
        return ANYONE
    kind, _, token = (authorization or "").partition(" ")
    given = _digest(token.strip())
    found = None
    for client in clients:
        if hmac.compare_digest(client.digest, given):
            found = client
    if kind.lower() != "bearer" or found is None:
        raise Refused(401, "a valid token is needed, in the header `Authorization: Bearer TOKEN`")
    if scope not in found.scopes:
        raise Refused(403, f"the token of {found.name} lacks the scope {scope}")
    return found.name
