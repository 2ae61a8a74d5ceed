"""The rules by which KubeRay judges its kinds: the schemas of its CRDs, and what its operator checks besides.

KubeRay's schemas lie in a folder beside the checkout, where there is one; without it, the test is skipped and says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

SCHEMAS = Path(__file__).parents[1].parent / "shared" / "kuberay"
LONGEST = {"RayJob": 47, "RayCluster": 53, "RayService": 47}
"Characters of a name."


def strict(schema: Any) -> Any:
    """A schema that refuses unknown keys wherever it names the known ones."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(one) for name, one in schema.items()}
    closed = "additionalProperties" in made or made.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not closed:
        made["additionalProperties"] = False
    return made


@cache
def kuberay_schema(kind: str) -> jsonschema.protocols.Validator:
    path = SCHEMAS / f"{kind.lower()}.schema.json"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not beside this checkout ({path})")
    schema = strict(json.loads(path.read_text()))
    # The schema of a CRD leaves out what every object has.
    schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
    return jsonschema.Draft7Validator(schema)


def clusters(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specifications of Ray clusters in an object."""
    if one["kind"] == "RayCluster":
        yield one["spec"]
    elif one["kind"] == "RayJob":
        yield one["spec"]["rayClusterSpec"]
    elif one["kind"] == "RayCronJob":
        yield one["spec"]["jobTemplate"]["rayClusterSpec"]


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def operator_faults(one: dict[str, Any]) -> list[str]:
    """What KubeRay's operator and the CEL rules of its CRDs would refuse and no schema says."""
    faults = []
    name, spec = one["metadata"]["name"], one["spec"]
    if len(name) > LONGEST.get(one["kind"], 52):
        faults.append(f"the name {name} is too long")
    job = spec.get("jobTemplate", spec) if one["kind"] in ("RayJob", "RayCronJob") else {}
    rules = job.get("deletionStrategy", {})
    if rules.get("deletionRules") and (job.get("shutdownAfterJobFinishes") or job.get("ttlSecondsAfterFinished")):
        faults.append("deletionRules exclude shutdownAfterJobFinishes and ttlSecondsAfterFinished")
    if rules and bool(rules.get("deletionRules")) == bool(rules.get("onSuccess") or rules.get("onFailure")):
        faults.append("a deletionStrategy has either rules or the two policies")
    if job.get("suspend") and not job.get("shutdownAfterJobFinishes"):
        faults.append("suspend needs shutdownAfterJobFinishes")
    if job.get("ttlSecondsAfterFinished") and not job.get("shutdownAfterJobFinishes"):
        faults.append("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
    if job.get("preRunningDeadlineSeconds", 0) > job.get("activeDeadlineSeconds", float("inf")):
        faults.append("the deadline of the start is later than that of the end")
    for cluster in clusters(one):
        if cluster.get("authOptions", {}).get("mode") == "token" and cluster.get("rayVersion", "0") < "2.52":
            faults.append("a token needs rayVersion 2.52 or later")
        for group in groups(cluster):
            restart = group["template"]["spec"].get("restartPolicy", "Never")
            if cluster.get("enableInTreeAutoscaling") and restart != "Never":
                faults.append("autoscaler v2 takes no restartPolicy but Never")
        for group in cluster["workerGroupSpecs"]:
            if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
                faults.append(f"{group['groupName']}: replicas must lie between the least and the most")
    return faults
