"""The check before a job, on real nodes with real faults: each is told with the node's name and what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import diffad_ray
from diffad_ray import storage
from diffad_ray.errors import TryLater, UserError
from diffad_ray.preflight.check import Checkup, clock_apart
from diffad_ray.preflight.here import sample, table_problems, witness
from diffad_ray.preflight.node import Problem
from diffad_ray.preflight.versions import versions_reader
from diffad_ray.table.lease import Lease

# Five nodes start on one machine, which may have other work.
pytestmark = pytest.mark.timeout(600)
SCRIPT = textwrap.dedent(
    """
    import dataclasses, json, os, sys, threading, time
    import ray
    from ray.cluster_utils import Cluster
    from diffad_ray import cluster
    from diffad_ray.cluster_settings import ClusterSettings
    from diffad_ray.cluster_size import wait_for
    from diffad_ray.errors import TryLater
    from diffad_ray.preflight.check import check_scoring
    from diffad_ray.scoring.task import make_task

    archive, table, detector, other_code, refusing = sys.argv[1:]
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    os.environ["RAY_ADDRESS"] = nodes.address
    cluster.connect()
    told = []

    def task(**settings):
        return make_task(archive, table, detector, settings=settings)

    # The size: one CPU more comes later, and a hundred never.
    sizes = []

    def wait():
        with wait_for(ClusterSettings(cpus=3, wait_minutes=2.0), told.append) as size:
            sizes.append(str(size))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(1)
    nodes.add_node(num_cpus=1)
    waiting.join()
    try:
        with wait_for(ClusterSettings(cpus=100, gpus=1, wait_minutes=0.02), lambda line: None):
            late = ""
    except TryLater as error:
        late = str(error)

    def has_no_problems_but_room():
        return dataclasses.asdict(check_scoring(task(gpus=0, free_disk_gb=10.0**9), told.append))

    room = has_no_problems_but_room()
    ids = {}
    for name, arguments in {
        "other code": {"num_cpus": 1, "env_vars": {"PYTHONPATH": other_code}},
        "no access": {"num_cpus": 1, "env_vars": {"AWS_ENDPOINT_URL": refusing}},
        "no GPU": {"num_cpus": 1, "num_gpus": 1},
    }.items():
        ids[name] = nodes.add_node(**arguments).node_id
    nodes.wait_for_nodes()
    bad = dataclasses.asdict(check_scoring(task(), told.append))
    found = {"on": sizes[0], "late": late, "told": told, "room": room, "bad": bad}
    print("FOUND " + json.dumps(found))
    ray.shutdown()
    nodes.shutdown()
    """
)


@pytest.fixture(scope="module")
def found(s3: str, archive: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process finds that checks a cluster of five nodes, three of which are not as they should be."""
    import http.server
    import threading

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Keep the test's output quiet."""

    refusing = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    for path in sorted((archive / "camera0").iterdir())[:3]:
        storage.write(f"{s3}/checked/{path.name}", path.read_bytes())
    other_code = tmp_path_factory.mktemp("other")
    package = shutil.copytree(Path(diffad_ray.__file__).parent, other_code / "diffad_ray")
    (package / "versions.py").write_text((package / "versions.py").read_text().replace("0.1.0", "0.0.9"))
    arguments = [f"{s3}/checked", f"{s3}/table-to-check", str(detector), str(other_code)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = str(Path(diffad_ray.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments, f"http://127.0.0.1:{refusing.server_port}"],
        capture_output=True,
        text=True,
        timeout=550,
        env=environment,
        # Ray gives workers the code of the folder in which a job starts, whatever is installed on their node.
        cwd=other_code.parent,
    )
    refusing.shutdown()
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("FOUND ")]
    assert "Set ray log level" not in ended.stderr
    result: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return result


def problems(checkup: dict[str, Any]) -> list[str]:
    return [problem["what"] for problem in checkup["problems"]]


@pytest.mark.long
def test_the_run_waits_for_what_it_asks_for(found: dict[str, Any]) -> None:
    assert found["on"] == "3 CPUs of 2 machines"
    came = [line for line in found["told"] if line.startswith("node ")]
    assert [line.split(" with ")[1].split(" after")[0] for line in came[:2]] == ["2 CPUs, 0 GPUs", "1 CPU, 0 GPUs"]
    assert "the cluster has 0 of 1 GPUs and 3 of 100 CPUs after 0.02 minutes" in found["late"]


@pytest.mark.long
def test_room_is_asked_for_and_all_else_is_done_on_each_node(found: dict[str, Any]) -> None:
    nodes = found["room"]["nodes"]
    assert [node["has"] for node in nodes] == ["2 CPUs, 0 GPUs", "1 CPU, 0 GPUs"]
    for node in nodes:
        assert node["answers"]["seconds"].keys() == {"archive", "table", "detection"}
        assert node["answers"]["device"] == "CPU"
    assert len(problems(found["room"])) == 2
    assert all("GB are wanted: free space in" in what for what in problems(found["room"]))


@pytest.mark.long
def test_each_fault_is_told_with_what_to_do(found: dict[str, Any]) -> None:
    said = problems(found["bad"])
    (other,) = [what for what in said if "diffad_ray" in what and "install the same" in what]
    assert "has diffad_ray 0.0.9 (source" in other
    assert "and not 0.1.0 (source" in other
    assert any("the archive can't be read" in what and "Give this node the credentials" in what for what in said)
    assert any("can't be written" in what and "refuses access" in what for what in said)
    assert any("Ray has a GPU here, but torch" in what for what in said)
    assert all(problem["where"] for problem in found["bad"]["problems"])
    assert len(found["bad"]["nodes"]) == 5


@pytest.mark.long
def test_nothing_is_left_behind(found: dict[str, Any], s3: str) -> None:
    assert found
    import boto3

    listed = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).list_objects_v2(
        Bucket=s3.removeprefix("s3://"), Prefix="table-to-check"
    )
    assert listed["KeyCount"] == 0


def test_a_table_that_can_not_be_written(tmp_path: Path) -> None:
    said: list[Problem] = []
    with witness("/sys/diffad_ray_table", said) as token:
        assert token == ""
    assert "can't be written" in said[0].what
    assert not said[0].passes
    with witness(str(tmp_path / "new" / "table"), said) as token:
        assert (tmp_path / "new" / "table" / token).read_text() == token
    assert not (tmp_path / "new").exists()


def test_another_run_holds_the_table(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    assert not list(table_problems(table))
    with Lease(table, "score"):
        (problem,) = table_problems(table)
    assert problem.passes
    assert "`diffad-ray score` of" in problem.what
    with pytest.raises(TryLater, match="found 1 problem"):
        Checkup(problems=[problem]).require()
    with pytest.raises(UserError) as caught:
        Checkup(problems=[problem, Problem("node", "its disk is full")]).require()
    assert not isinstance(caught.value, TryLater)
    assert "  node: its disk is full" in str(caught.value)


def test_images_of_an_archive(tmp_path: Path, archive: Path, s3: str, default_storage: None) -> None:
    said: list[Problem] = []
    assert len(sample(str(archive), said)) == 3
    (tmp_path / "list.csv").write_text("uri\na.png\nb.png\n")
    assert sample(str(tmp_path / "list.csv"), said) == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    assert not said
    assert sample("s3://no-such-bucket/archive", said) == ()
    assert sample(str(tmp_path / "nowhere"), said) == ()
    assert "no such bucket" in said[0].what
    assert "can't be read" in said[1].what


def test_clocks() -> None:
    assert clock_apart(1000.0, 990.0, 1010.0) == 0
    assert clock_apart(1070.0, 990.0, 1010.0) == 0
    assert clock_apart(1100.0, 990.0, 1010.0) == 90
    assert clock_apart(900.0, 990.0, 1010.0) == -90


def test_versions_are_those_of_the_code_that_runs() -> None:
    found = versions_reader()()
    assert found.keys() == {"Python", "ray", "torch", "diffad_ray"}
    assert found["diffad_ray"].startswith(f"{diffad_ray.__version__} (source ")
    assert "+" not in found["torch"]
