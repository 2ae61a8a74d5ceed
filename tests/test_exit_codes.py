"""What schedulers see: 75 where waiting mends it, 2 where someone must act, 1 for a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_made_table import write_run
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError
from test_cli import run

from diffad_ray.cli.application import exit_code
from diffad_ray.cluster import stopped
from diffad_ray.errors import Fault, TryLater, UserError
from diffad_ray.storage import Archived, SlowDown, Unavailable
from diffad_ray.table.lease import Lease, LeaseLost


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such detector"), 2),
        (PermissionError("refused"), 2),
        (Archived("restore it first"), 2),
        (TryLater("in use"), 75),
        (LeaseLost("taken over"), 75),
        (SlowDown("fewer requests"), 75),
        (TimeoutError("no answer"), 75),
        (Fault("problems"), 1),
        (ValueError("a fault of ours"), 1),
    ],
)
def test_codes(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_the_cause_of_an_error_counts() -> None:
    error = UserError("the table can't be read")
    error.__cause__ = Unavailable("the connection failed")
    assert exit_code(error) == 75
    assert exit_code(Fault("problems")) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NodeDiedError("node"), TryLater),
        (RayTaskError("load", "Traceback ...", SlowDown("fewer requests")), TryLater),
        (OutOfMemoryError("raylet"), UserError),
        (RayTaskError("commit", "Traceback ...", OSError(28, "No space left on device")), UserError),
        (ActorDiedError(), Fault),
        (ExecutionTimeoutError("internal"), Fault),
        (RayTaskError("detect", "Traceback ...", ZeroDivisionError("by zero")), Fault),
    ],
)
def test_how_work_on_a_cluster_ended(error: Exception, kind: type[UserError]) -> None:
    found = stopped("run 1 stopped", error)
    assert type(found) is kind
    assert str(found).startswith("run 1 stopped: ")


@pytest.mark.usefixtures("default_storage")
def test_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = str(tmp_path / "table")
    write_run(table, 1, ["a.png", "b.png"])
    with Lease(table, "score"):
        assert run(monkeypatch, "compact", table) == 75
    assert "Try again later: " in capsys.readouterr().err
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert run(monkeypatch, "verify", "s3://unreachable/table") == 75
    assert "the connection failed" in capsys.readouterr().err
    assert run(monkeypatch, "verify", tmp_path / "nowhere") == 2
    assert "Error: " in capsys.readouterr().err
    next(Path(table).glob("scores/*/*.parquet")).write_bytes(b"no Parquet")
    assert run(monkeypatch, "verify", table) == 1
