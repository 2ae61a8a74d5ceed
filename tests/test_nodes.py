"""A cluster of nodes with their own addresses scores an archive in a bucket, while one is killed and one joins."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from namespaces import Nodes, fill_bucket, missing, start_store, wait_until

import diffad_ray
from diffad_ray.preflight.here import IMAGES_READ
from diffad_ray.table.verify import Verification, verify
from diffad_ray.table.views import ask_views
from diffad_ray.versions import VERSION

IMAGES, SHARD_IMAGES = 200, 4
SLOW = 1.0
"Seconds for an image of the store, until all has happened that is to happen in the middle of the run."
CHECKED = {f"/plant/archive/{k:04d}.png" for k in range(IMAGES_READ)}
"Images that the check before the run reads, too."
URIS = "SELECT list(image_uri ORDER BY image_uri) FROM scores"
ROOT = Path(diffad_ray.__file__).parents[1]
LACKING = missing()
# Six nodes start one after another, and the machine may have other work.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.skipif(bool(LACKING), reason=LACKING)]


@dataclass
class Outcome:
    """What happened.

    Attributes:
        read_by: images that each node read in the run, without those that the check reads.
        exit_code, said: of the run.
        verification: of its table; `images`: the URIs of its rows.
        check_code, problems: of `--check` with two more nodes that are not as they must be; each problem by the node.
    """

    read_by: dict[str, int]
    exit_code: int
    said: str
    verification: Verification
    images: list[str]
    check_code: int
    problems: dict[str, list[str]]


@pytest.fixture(scope="module")
def store() -> Iterator[tuple[Nodes, FaultyProxy]]:
    """A bridge without nodes yet, and on it a slow store with the archive, which the environment names."""
    before = dict(os.environ)
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_ENDPOINT"))}
    with Nodes({**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}) as nodes:
        server, upstream = start_store(nodes.bridge, nodes.folder / "store.log")
        slow = FaultyProxy(upstream, 1.0, slow=SLOW, kinds=["slow"], only="/plant/archive/", host=nodes.bridge)
        try:
            with slow as proxy:
                fill_bucket(upstream, IMAGES)
                os.environ["AWS_ENDPOINT_URL"] = nodes.environment["AWS_ENDPOINT_URL"] = proxy.url
                yield nodes, proxy
        finally:
            server.kill()
            server.wait()
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="module")
def outcome(store: tuple[Nodes, FaultyProxy], detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One run on a head and two nodes: one joins, one is killed; then a check with two that are not as they must be."""
    nodes, proxy = store
    command = [sys.executable, "-m", "diffad_ray.cli", "score", "s3://plant/archive", "--table", "s3://plant/table"]
    command += ["--detector", str(detector), "--set", f"scoring.shard_images={SHARD_IMAGES}"]
    # So many actors fill three nodes of a CPU: those of a lost node find room only on one that joins.
    command += ["--set", "scoring.readers=1", "--actors", "5"]
    nodes.add("head")
    nodes.wait("head")
    for name in ("first", "second"):
        nodes.add(name)
    nodes.wait("first", "second")
    run = nodes.run("head", [*command, "--cpus", "3"], nodes.folder / "run.log")

    def scored_by(name: str) -> int:
        return sum(count for path, count in proxy.readers[nodes.addresses[name]].items() if path not in CHECKED)

    def has_read(*names: str) -> bool:
        assert run.poll() is None, "the run ended before all has happened: " + (nodes.folder / "run.log").read_text()
        return all(scored_by(name) for name in names)

    wait_until(lambda: has_read("head", "first", "second"), "that all nodes read images")
    nodes.add("joins")
    nodes.wait("joins")
    nodes.kill("second")
    wait_until(lambda: has_read("joins"), "that the node that joined reads images")
    proxy.slow = 0.0
    wait_until(lambda: run.poll() is not None, "the end of the run")
    read_by = {name: scored_by(name) for name in nodes.addresses}
    found = verify("s3://plant/table")
    ((images,),) = ask_views("s3://plant/table", lambda connection: connection.sql(URIS).fetchall())
    said = (nodes.folder / "run.log").read_text()

    nodes.remove("second")
    nodes.add("stale", environment={"PYTHONPATH": str(another_version(tmp_path_factory.mktemp("other")))})
    empty = str(tmp_path_factory.mktemp("home"))
    nodes.add("no-access", environment={"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "HOME": empty})
    nodes.wait("stale", "no-access")
    check = nodes.run("head", [*command, "--cpus", "5", "--check", "--json"], nodes.folder / "check.log")
    wait_until(lambda: check.poll() is not None, "the end of the check")
    answer = (nodes.folder / "check.log").read_text()
    problems: dict[str, list[str]] = {name: [] for name in nodes.addresses}
    for problem in json.JSONDecoder().raw_decode(answer[answer.index("{") :])[0]["problems"]:
        (name,) = [name for name, address in nodes.addresses.items() if f"({address})" in problem["where"]]
        problems[name].append(problem["what"])
    return Outcome(read_by, run.returncode, said, found, images, check.returncode, problems)


def another_version(folder: Path) -> Path:
    """A copy of the package that says of itself that it is another version."""
    package = shutil.copytree(ROOT / "diffad_ray", folder / "diffad_ray")
    versions = package / "versions.py"
    versions.write_text(versions.read_text().replace(VERSION, "0.0.9"))
    return folder


def test_all_nodes_score_and_the_one_that_joined_later(outcome: Outcome) -> None:
    assert outcome.read_by.keys() == {"head", "first", "second", "joins"}
    assert all(outcome.read_by.values()), outcome.read_by
    assert "works on 3 CPUs of 3 machines" in outcome.said


def test_a_killed_node_costs_no_row(outcome: Outcome) -> None:
    assert outcome.exit_code == 0, outcome.said
    assert outcome.images == [f"s3://plant/archive/{k:04d}.png" for k in range(IMAGES)]
    assert outcome.verification.problems == []
    assert outcome.verification.rows == IMAGES
    # Of what the killed node had begun, some was read again.
    assert IMAGES - len(CHECKED) <= sum(outcome.read_by.values()) <= 2 * IMAGES


def test_the_check_names_nodes_that_are_not_as_they_must_be(outcome: Outcome) -> None:
    assert outcome.check_code == 2
    assert {name for name, said in outcome.problems.items() if said} == {"stale", "no-access"}
    (version,) = outcome.problems["stale"]
    assert "has diffad_ray 0.0.9 (source" in version
    assert f"and not {VERSION} (source" in version
    assert any("Give this node the credentials" in what for what in outcome.problems["no-access"])
