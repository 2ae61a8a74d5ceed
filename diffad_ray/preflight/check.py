"""Checks all nodes of the cluster, and reports all problems, not only the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from diffad_ray import storage
from diffad_ray.cluster import why_ended
from diffad_ray.cluster_settings import ClusterSettings
from diffad_ray.cluster_size import Size, alive_nodes, has, name_of, wait_for
from diffad_ray.errors import TryLater, UserError, counted
from diffad_ray.preflight.here import sample, table_problems, witness
from diffad_ray.preflight.node import GIGABYTE, MOST_SECONDS_APART, Answers, Problem, Questions, check_node
from diffad_ray.preflight.versions import versions_reader
from diffad_ray.scoring.task import Task

PATIENCE = 120.0
"Seconds for the answer of a node. The first worker of a node spends some of them on importing torch."


@dataclass
class NodeCheck:
    """A node, its resources, and its answers; None if it gave no answer."""

    name: str
    has: str
    answers: Answers | None


@dataclass
class Checkup:
    """The result of a check. The job can begin if there are no problems.

    Attributes:
        nodes: the checked nodes.
        problems: the problems of all nodes, each with what to do.
        seconds: duration of the check.
    """

    nodes: list[NodeCheck] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

    def require(self) -> None:
        """Raise if there are problems.

        Raises:
            TryLater: all of them may pass by themselves.
            UserError: the user must act.
        """
        if not self.problems:
            return
        kind = TryLater if all(problem.passes for problem in self.problems) else UserError
        lines = "\n".join(f"  {problem.where}: {problem.what}" for problem in self.problems)
        raise kind(f"the check found {counted(len(self.problems), 'problem')}, so nothing was begun:\n{lines}")


def check_scoring(task: Task, say: Callable[[str], None]) -> Checkup:
    """Check whether all nodes can score a task: read the archive, load the detectors, write the table, and so on.

    Args:
        task: the task.
        say: receives a line for each node that joins while the check waits.

    Raises:
        TryLater: the cluster did not get its size in time.
        UserError: there is no cluster.
    """
    problems = list(table_problems(task.table))
    detectors = tuple({d.location: d.bundle.fingerprint for d in task.detectors}.items())
    return _check(task.archive, task.table, detectors, task.cluster, problems, say)


def check_training(normals: str, detector: str, cluster: ClusterSettings, say: Callable[[str], None]) -> Checkup:
    """Check whether all nodes can read the normal images and write the detector; raises as `check_scoring`."""
    return _check(normals, detector, (), cluster, [], say)


def _check(
    archive: str,
    writes: str,
    detectors: tuple[tuple[str, str], ...],
    cluster: ClusterSettings,
    problems: list[Problem],
    say: Callable[[str], None],
) -> Checkup:
    started = time.monotonic()
    found = Checkup(problems=problems)
    with wait_for(cluster, say) as size, witness(writes, found.problems) as token:
        questions = Questions(
            images=sample(archive, found.problems),
            detectors=detectors,
            writes=writes,
            token=token,
            storage=storage.settings(),
            needs_gpu=size.gpus > 0,
            disk=cluster.free_disk_gb * GIGABYTE,
            memory=cluster.free_memory_gb * GIGABYTE,
        )
        _ask_nodes(_working_nodes(size), questions, found)
    found.seconds = round(time.monotonic() - started, 1)
    return found


def _working_nodes(size: Size) -> list[dict[str, Any]]:
    """Return the nodes on which workers run, without a head that has neither CPUs nor GPUs.

    All of them are checked, because one of two nodes with equal resources may have another version or no credentials.
    """
    nodes = alive_nodes()
    return [node for node in nodes if node["Resources"].get("CPU", 0) or (size.gpus and _has_gpu(node))]


def _has_gpu(node: dict[str, Any]) -> bool:
    return bool(node["Resources"].get("GPU", 0) >= 1)


def _ask_nodes(nodes: Sequence[dict[str, Any]], questions: Questions, found: Checkup) -> None:
    """Compare the versions of all nodes with those of the driver, and check the nodes that have the same."""
    read_versions = versions_reader()
    ours = read_versions()
    versions = _on_nodes(read_versions, [(node, (), 0) for node in nodes], found.problems)
    able = []
    for node in nodes:
        theirs = versions.get(node["NodeID"])
        if theirs is None:
            continue
        others = [f"{name} {theirs[name]} and not {ours[name]}" for name in ours if theirs[name] != ours[name]]
        if others:
            advice = "install the same on all nodes, or submit the job with --working-dir"
            found.problems.append(Problem(name_of(node), f"has {', '.join(others)}: {advice}"))
        else:
            able.append(node)
    asked = []
    for node in able:
        # If there are GPUs, a node without one loads images only.
        gpus = int(questions.needs_gpu and _has_gpu(node))
        detectors = () if questions.needs_gpu and not gpus else questions.detectors
        asked.append((node, (replace(questions, needs_gpu=gpus > 0, detectors=detectors),), gpus))
    begun = time.time()
    answers = _on_nodes(check_node, asked, found.problems)
    ended = time.time()
    for node in nodes:
        answer: Answers | None = answers.get(node["NodeID"])
        found.nodes.append(NodeCheck(name_of(node), has(node), answer))
        if answer is None:
            continue
        found.problems += [Problem(name_of(node), what, passes) for what, passes in answer.problems]
        if apart := clock_apart(answer.time, begun, ended):
            found.problems.append(
                Problem(name_of(node), f"its clock is {apart:+.0f} s apart from the driver's: set both (NTP)")
            )


def clock_apart(theirs: float, begun: float, ended: float) -> float:
    """Return the seconds by which a node's clock is ahead, or 0 if they are few.

    The node read its clock between the times `begun` and `ended` of the driver.

    Example:
        >>> clock_apart(1000.0, 990.0, 1010.0), clock_apart(1100.0, 990.0, 1010.0)
        (0.0, 90.0)
    """
    apart = max(theirs - ended, 0.0) + min(theirs - begun, 0.0)
    return apart if abs(apart) > MOST_SECONDS_APART else 0.0


def _on_nodes(
    function: Callable[..., Any],
    calls: Sequence[tuple[dict[str, Any], tuple[Any, ...], int]],
    problems: list[Problem],
) -> dict[str, Any]:
    """Call a function on each node, and return the results by node ID; add a problem for each node without a result.

    Args:
        calls: nodes with arguments and numbers of GPUs.
    """
    remote = ray.remote(max_retries=0, num_cpus=0)(function)
    asked = {}
    for node, arguments, gpus in calls:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[remote.options(scheduling_strategy=here, num_gpus=gpus).remote(*arguments)] = (node, gpus)
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE) if asked else ([], [])
    answers = {}
    for reference, (node, gpus) in asked.items():
        if reference not in ready:
            ray.cancel(reference, force=True)
            busy = "its GPUs may be another job's" if gpus else "see whether its raylet works (`ray status`)"
            problems.append(Problem(name_of(node), f"gave no answer in {PATIENCE:.0f} s: {busy}", passes=True))
            continue
        try:
            answers[node["NodeID"]] = ray.get(reference)
        except RayError as error:
            problems.append(Problem(name_of(node), f"a worker can't run there: {why_ended(error)}"))
    return answers
