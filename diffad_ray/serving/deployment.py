"""The service as an application of Ray Serve: decoding and detection in one deployment, with finite queues."""

from __future__ import annotations

import sys
from typing import Any

import ray
from prometheus_client.core import Metric
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from diffad_ray import storage
from diffad_ray.cluster_settings import ClusterSettings
from diffad_ray.cluster_size import size_now
from diffad_ray.serving import service as services
from diffad_ray.serving.http import http_app
from diffad_ray.serving.observation import write_request_lines
from diffad_ray.serving.service import Service, replicas_of
from diffad_ray.serving.settings import ServingSettings
from diffad_ray.settings import build
from diffad_ray.storage import StorageSettings

NAME = "detectors"
ROOM = 16
"Requests beside the places of a replica: for its health, its metrics, and refusals with `Retry-After`."
DRAIN_SECONDS = 30.0
SWITCH_SECONDS = 0.0005
"""How long the thread of the networks may wait for the interpreter between two operations, while requests are parsed;
Python's own 5 ms cost images."""
BUSY_SECONDS = 1.0
"`Retry-After` of a request that finds not even room to be refused by the replica itself."


def _application() -> ASGIApp:
    return http_app(services.of_process[-1])


@serve.deployment(name=NAME)
@serve.ingress(_application)
class Replica:
    """A process that answers requests.

    Args:
        settings: the sections `serving` and `storage`, as plain values: they pass through Ray's records.
    """

    def __init__(self, settings: dict[str, dict[str, Any]]):
        storage.configure(build(StorageSettings, settings["storage"], "storage"))
        own = build(ServingSettings, settings["serving"], "serving")
        write_request_lines(own.log_file)
        sys.setswitchinterval(SWITCH_SECONDS)
        self.service = Service(own)
        self.service.gather = self._all_metrics
        services.of_process.append(self.service)

    def check_health(self) -> None:
        """Raise if this replica can't answer any more; Ray Serve replaces it then."""
        if problem := self.service.networks.problem():
            raise RuntimeError(problem)

    def readiness(self) -> str:
        """See `Service.readiness`."""
        return self.service.readiness()

    async def drain(self, seconds: float) -> bool:
        """See `Service.drain`."""
        return await self.service.drain(seconds)

    async def metric_families(self) -> tuple[str, list[Metric]]:
        """Return the name of this replica and its metrics."""
        return serve.get_replica_context().replica_id.unique_id, self.service.families()

    async def _all_metrics(self) -> dict[str, list[Metric]]:
        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(NAME, context.app_name)
        return dict(await handle.broadcast("metric_families").results_async())


def app(args: dict[str, Any]) -> Application:
    """Return the application for `serve deploy` and RayService, with `import_path: diffad_ray.serving:app`.

    Args:
        args: fields of `ServingSettings`; `storage` may hold those of `StorageSettings`.

    Raises:
        UserError: a field is unknown or has an invalid value.
    """
    values = dict(args)
    of_storage = values.pop("storage", {})
    settings = build(ServingSettings, values, "serving")
    build(StorageSettings, of_storage, "storage")
    return bound(settings, {"serving": values, "storage": of_storage})


def bound(settings: ServingSettings, values: dict[str, dict[str, Any]]) -> Application:
    """Return the deployment with as many replicas and places as settings say."""
    gpus, cores = 0, 1
    if ray.is_initialized():
        size = size_now(ClusterSettings())
        gpus, cores = size.gpus, size.cpus // size.machines
    return Replica.options(  # type: ignore[attr-defined]
        num_replicas=replicas_of(settings, gpus, cores),
        max_ongoing_requests=settings.places + ROOM,
        max_queued_requests=settings.places,
        backpressure_config={"status_code": 503, "retry_after_s": BUSY_SECONDS},
        ray_actor_options={"num_cpus": 0.5, "num_gpus": 1 if gpus else 0},
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
    ).bind(values)
