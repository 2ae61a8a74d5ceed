"""The check of all nodes, as commands make it: alone where it was asked for, and before each job on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from diffad_ray.cli.shared import console, print_json, say, stderr
from diffad_ray.errors import UserError, counted

if TYPE_CHECKING:
    from diffad_ray.preflight.check import Checkup


def check_first(is_alone: bool, as_json: bool, check: Callable[[Callable[[str], None]], Checkup]) -> bool:
    """Check the nodes if that was asked for, or if a cluster is joined, whose nodes may differ.

    Args:
        is_alone: whether the check is all that was asked for.
        as_json: whether its result is printed as JSON.
        check: makes it; takes where to tell the nodes that it waits for.

    Returns:
        Whether the command has ended.

    Raises:
        UserError: there are problems; all of them are in the message.
    """
    from diffad_ray.cluster import check_address
    from diffad_ray.reports.terminal import print_checkup

    if check_address() is None and not is_alone:
        return False
    found = check(lambda line: say(line, stderr))
    if is_alone and as_json:
        print_json(asdict(found))
    elif is_alone or found.problems:
        print_checkup(found, console if is_alone else stderr)
    else:
        say(f"check: {counted(len(found.nodes), 'node')}, no problems, {found.seconds:.0f} s", stderr)
    found.require()
    return is_alone


@contextmanager
def for_training(
    normals: str, detector: str, workers: int, gpus: int | None, cpus: int | None, is_alone: bool, as_json: bool
) -> Iterator[bool]:
    """Check and wait for what a training asks for, which keeps the cluster from shrinking in the `with` block; gives
    whether to train.

    Raises:
        TryLater: the cluster did not get its size in time.
        UserError: the check found problems, or fewer GPUs were asked for than there are workers.
    """
    if workers == 0 and not is_alone:
        if gpus is not None or cpus is not None:
            raise UserError("--gpus and --cpus wait for a cluster, and --workers 0 uses none: leave them out")
        yield True
        return
    if gpus and gpus < workers:
        raise UserError(f"--gpus {gpus} are fewer than --workers {workers}, and each worker takes one: take as many")
    from diffad_ray.cluster_settings import ClusterSettings
    from diffad_ray.cluster_size import wait_for
    from diffad_ray.preflight.check import check_training

    asked = ClusterSettings(gpus=gpus, cpus=cpus)
    if check_first(is_alone, as_json, lambda tell: check_training(normals, detector, asked, tell)):
        yield False
    elif gpus is None and cpus is None:
        yield True
    else:
        with wait_for(asked, lambda line: say(f"training {line}", stderr)):
            yield True
