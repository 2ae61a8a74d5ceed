"""Runs a training job on Ray Train, with one worker for each rank, on CPUs (gloo) or GPUs (NCCL)."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from diffad_ray.cluster import connect, cores
from diffad_ray.errors import UserError
from diffad_ray.training.batches import World
from diffad_ray.training.gloo import OwnAddressConfig
from diffad_ray.training.job import TrainingJob, run_job
from diffad_ray.training.loop import Report

RESTARTS = 3
"Number of restarts from the last checkpoint after a worker or node died."
SECONDS_BETWEEN_POLLS = 0.5


@ray.remote(num_cpus=0)
class Noticeboard:
    """Passes the latest report of the workers to the driver."""

    def __init__(self) -> None:
        self.report: Report | None = None
        self.error: str | None = None

    def put(self, report: Report) -> None:
        self.report = report

    def put_error(self, error: str) -> None:
        self.error = error

    def latest(self) -> tuple[Report | None, str | None]:
        return self.report, self.error


def _worker(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    _take_cores(world.device, config["cpus"], context.get_local_world_size())
    board = config["board"]
    try:
        run_job(TrainingJob(**config["job"]), world, board.put.remote)
    except UserError as error:
        ray.get(board.put_error.remote(str(error)))
        raise


def on_worker(task: Callable[[World], float], workers: int, cpus: int | None) -> float:
    """Run a function on the cluster with the device and the threads that one of `workers` workers would have."""
    connect()
    use_gpu = _has_gpus(workers)
    on_a_node = -(-workers // len(ray.nodes()))

    def run() -> float:
        device = torch.device("cuda" if use_gpu else "cpu")
        _take_cores(device, cpus, on_a_node)
        return task(World(device=device))

    found: float = ray.get(ray.remote(num_cpus=cpus or 1, num_gpus=int(use_gpu))(run).remote())
    return found


def _has_gpus(workers: int) -> bool:
    """Return whether the cluster has a GPU for each worker."""
    return bool(ray.cluster_resources().get("GPU", 0) >= workers)


def _take_cores(device: torch.device, cpus: int | None, on_a_node: int) -> None:
    """Set the threads of a worker on a CPU: `cpus`, or its share of the cores where several work on its node."""
    if device.type == "cpu":
        torch.set_num_threads(cpus or max(1, cores() // on_a_node))


def run_on_ray(job: TrainingJob, workers: int, cpus: int | None, on_report: Callable[[Report], None]) -> None:
    """Run a training on `workers` Ray Train workers, each with a GPU if the cluster has that many.

    Args:
        cpus: CPUs of a worker. With None a worker reserves one, and the workers of a node share all its cores.

    Raises:
        UserError: the training failed for a reason that the user can correct, or failed in every restart.
    """
    connect()
    use_gpu = _has_gpus(workers)
    needed, found = workers * (cpus or 1), ray.cluster_resources().get("CPU", 0)
    if found < needed:
        raise UserError(f"{workers} workers need {needed} CPUs, the cluster has {found:.0f}: take fewer")
    board = Noticeboard.remote()  # type: ignore[attr-defined]
    finished = threading.Event()

    def relay() -> None:
        shown = None
        while not finished.wait(SECONDS_BETWEEN_POLLS):
            report, _ = ray.get(board.latest.remote())
            if report is not None and report != shown:
                shown = report
                on_report(report)

    watcher = threading.Thread(target=relay, daemon=True)
    watcher.start()
    # Checkpoints are written to the job's location through `storage/`, so a training continues in the same way with Ray
    # and without. Ray's folder has its own records only: Ray's controller, which alone writes them, runs on the node of
    # this process, so that the folder need not be shared with other nodes.
    with tempfile.TemporaryDirectory(prefix="diffad-ray-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": asdict(job), "board": board, "cpus": cpus},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": cpus or 1} | ({"GPU": 1} if use_gpu else {}),
            ),
            torch_config=OwnAddressConfig(),
            run_config=RunConfig(storage_path=scratch, failure_config=FailureConfig(max_failures=RESTARTS)),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            _, message = ray.get(board.latest.remote())
            if message is not None:
                raise UserError(message) from error
            raise UserError(
                f"the training failed {RESTARTS + 1} times, last with: {str(error).strip().splitlines()[-1]}. "
                "The same command goes on from the last checkpoint"
            ) from error
        finally:
            finished.set()
            watcher.join()
            ray.kill(board)
