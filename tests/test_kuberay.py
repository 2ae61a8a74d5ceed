"""`cluster/kuberay` as far as it can be judged without a cluster: schemas, the operator's own rules, what pods may do.

Kustomize is that of `kubectl`. What needs a program that is absent is skipped and says so.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay_rules import LONGEST, clusters, groups, kuberay_schema, operator_faults
from programs import program

from diffad_ray.cluster_settings import ClusterSettings
from diffad_ray.nightly.settings import NightlySettings
from diffad_ray.settings import build
from diffad_ray.versions import VERSION

ROOT = Path(__file__).parents[1]
KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = ("cpu-small", "gpu")
sys.path.insert(0, str(KUBERAY / "base"))


@cache
def kustomized(overlay: str) -> tuple[dict[str, Any], ...]:
    """The objects of an overlay, as `kubectl apply -k` would send them."""
    made = subprocess.run(
        [program("kubectl"), "kustomize", KUBERAY / "overlays" / overlay], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def objects(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    found = [one for one in kustomized(overlay) if one["kind"] in kinds]
    assert found
    return found


def alternative() -> dict[str, Any]:
    return yaml.safe_load((KUBERAY / "alternatives" / "raycronjob.yaml").read_text())


@pytest.mark.parametrize("overlay", [*OVERLAYS, "raycronjob"])
def test_kinds_of_ray_follow_kuberays_schemas(overlay: str) -> None:
    made = [alternative()] if overlay == "raycronjob" else objects(overlay, "RayJob", "RayCluster")
    for one in made:
        errors = [f"{error.json_path}: {error.message}" for error in kuberay_schema(one["kind"]).iter_errors(one)]
        assert not errors


def test_a_typo_is_found() -> None:
    one = alternative()
    container = next(clusters(one))["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["volumeMount"] = container.pop("volumeMounts")
    one["spec"]["concurrencyPolicy"] = "Forbid"
    assert len(list(kuberay_schema("RayCronJob").iter_errors(one))) == 2


@pytest.mark.parametrize("overlay", [*OVERLAYS, "raycronjob"])
def test_what_the_operator_checks(overlay: str) -> None:
    for one in [alternative()] if overlay == "raycronjob" else objects(overlay, "RayJob", "RayCluster"):
        assert operator_faults(one) == []


def test_what_the_operator_would_refuse_is_found() -> None:
    one = alternative()
    job = one["spec"]["jobTemplate"]
    job |= {"deletionStrategy": {"deletionRules": [{}]}, "preRunningDeadlineSeconds": 10**6}
    cluster = job["rayClusterSpec"]
    cluster |= {"enableInTreeAutoscaling": True, "rayVersion": "2.49.0"}
    cluster["workerGroupSpecs"][0]["replicas"] = 9
    cluster["workerGroupSpecs"][0]["template"]["spec"]["restartPolicy"] = "Always"
    one["metadata"]["name"] = "n" * 60
    assert len(operator_faults(one)) == 6
    job |= {"shutdownAfterJobFinishes": False, "suspend": True, "deletionStrategy": {"onSuccess": {}}}
    assert any("suspend needs" in fault for fault in operator_faults(one))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_follow_the_schemas_of_kubernetes(overlay: str) -> None:
    import kubernetes_validate

    kinds = {"ConfigMap", "CronJob", "NetworkPolicy", "Role", "RoleBinding", "ServiceAccount"}
    core = [one for one in kustomized(overlay) if not one["apiVersion"].startswith("ray.io/")]
    assert {one["kind"] for one in core} == kinds
    monitoring = yaml.safe_load((KUBERAY / "components/monitoring/network.yaml").read_text())
    for one in [*core, monitoring]:
        kubernetes_validate.validate(one, "1.34", strict=True)


def test_monitoring_component_can_be_added(tmp_path: Path) -> None:
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    file = tmp_path / "kuberay/overlays/gpu/kustomization.yaml"
    text = file.read_text().replace("# components:\n#   -", "components:\n  -")
    file.write_text(text)
    made = subprocess.run([program("kubectl"), "kustomize", file.parent], capture_output=True, text=True, check=True)
    added = [one for one in yaml.safe_load_all(made.stdout) if one["metadata"]["name"].startswith("diffad-ray")]
    monitor = next(one for one in added if one["kind"] == "PodMonitor")
    ports = {port["port"] for port in monitor["spec"]["podMetricsEndpoints"]}
    named = {
        port["name"]
        for one in objects("gpu", "RayJob")
        for cluster in clusters(one)
        for group in groups(cluster)
        for port in group["template"]["spec"]["containers"][0]["ports"]
    }
    assert ports <= named


@pytest.mark.parametrize("overlay", [*OVERLAYS, "raycronjob"])
def test_no_cluster_is_open_and_none_reports_usage(overlay: str) -> None:
    for one in [alternative()] if overlay == "raycronjob" else objects(overlay, "RayJob", "RayCluster"):
        for cluster in clusters(one):
            assert cluster["authOptions"] == {"mode": "token"}
            for group in groups(cluster):
                pod = group["template"]["spec"]
                assert pod["securityContext"]["runAsNonRoot"]
                assert pod["automountServiceAccountToken"] is False
                (container,) = pod["containers"]
                assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert VERSION in container["image"]


@pytest.mark.parametrize("overlay", [*OVERLAYS, "raycronjob"])
def test_rays_own_processes_have_room_and_the_job_asks_for_what_there_is(overlay: str) -> None:
    made = [alternative()] if overlay == "raycronjob" else objects(overlay, "RayJob")
    for one in made:
        (cluster,) = clusters(one)
        cpus = gpus = 0
        for group in cluster["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert asked["memory"] == most["memory"]
            given = int(group["rayStartParams"]["num-cpus"])
            assert given < int(asked["cpu"])
            assert (
                int(group["rayStartParams"]["object-store-memory"])
                <= int(most["memory"].removesuffix("Gi")) * 2**30 / 3
            )
            cpus += group["replicas"] * given
            gpus += group["replicas"] * int(most.get("nvidia.com/gpu", 0))
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        words = shlex.split(one["spec"].get("jobTemplate", one["spec"])["entrypoint"])
        options = dict(itertools.pairwise(words))
        if "--workers" in options:
            assert int(options["--workers"]) == sum(group["replicas"] for group in cluster["workerGroupSpecs"])
        elif gpus:
            assert int(options["--gpus"]) == gpus
        else:
            assert int(options["--cpus"]) == cpus


def test_network_policy_closes_all_ports_but_to_the_namespace_and_the_operator() -> None:
    (policy,) = objects("gpu", "NetworkPolicy")
    assert policy["spec"]["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    inside, operator = policy["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": {}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert operator["from"][0].keys() == {"namespaceSelector"}


def test_cronjob_can_do_what_its_program_does_and_no_more() -> None:
    (role,), (cron,) = objects("gpu", "Role"), objects("gpu", "CronJob")
    (rule,) = role["rules"]
    program_text = (KUBERAY / "base" / "start_night.sh").read_text()
    code = "\n".join(line.partition("#")[0] for line in program_text.splitlines())
    assert set(re.findall(r"kubectl (\w+)", code)) == set(rule.pop("verbs"))
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"]}
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert {"startingDeadlineSeconds", "timeZone", "successfulJobsHistoryLimit"} <= cron["spec"].keys()
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "diffad-ray-nightly"
    zone = next(one["value"] for one in pod["containers"][0]["env"] if one["name"] == "TZ")
    assert zone == cron["spec"]["timeZone"]
    template = pod["containers"][0]["command"][2]
    assert template in {one["metadata"]["name"] for one in objects("gpu", "RayJob")}
    # The name with the date is one that the operator takes.
    assert len(f"{template}-2026-11-28") <= LONGEST["RayJob"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_copy_of_a_template_runs(overlay: str) -> None:
    from copy_template import copy_template

    for template in objects(overlay, "RayJob", "RayCluster"):
        assert template["spec"]["suspend"] is True
        made = copy_template(template, "night-2026-11-28", ("job", "uid"))
        assert "suspend" not in made["spec"]
        assert made["metadata"]["ownerReferences"][0]["uid"] == "uid"
        assert made["metadata"]["namespace"] == "diffad-ray"
        assert not operator_faults(made)
        for name in ("x" * 54, "Night", "2026-night", "night-"):
            with pytest.raises(ValueError, match="is no name of a"):
                copy_template(template, name)
    with pytest.raises(ValueError, match="this is a CronJob"):
        copy_template(objects(overlay, "CronJob")[0], "night")


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["Initializing ", "Running RUNNING", "Complete SUCCEEDED"], 0),
        (["Running RUNNING", "Failed FAILED"], 1),
        (["Complete STOPPED"], 1),
    ],
)
def test_the_cronjobs_program(states: list[str], code: int, tmp_path: Path) -> None:
    """Against a stand-in for kubectl, since there is no cluster: it creates once, waits, and ends as the night did."""
    template = objects("cpu-small", "RayJob")[0]
    (tmp_path / "template.json").write_text(json.dumps(template))
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    stand_in = tmp_path / "kubectl"
    stand_in.write_text(f"""#!/usr/bin/env bash
cd {tmp_path}
case "$*" in
    create*) cat > created.json ;;
    *--ignore-not-found*) [[ ! -e created.json ]] || echo rayjob/night ;;
    *--output\\ json) cat template.json ;;
    *status.message*) echo a reason ;;
    *) head -1 states; sed -i 1d states ;;
esac
""")
    stand_in.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "JOB_NAME": "job",
        "JOB_UID": "uid",
        "SECONDS_BETWEEN_LOOKS": "0",
    }

    def start() -> subprocess.CompletedProcess[str]:
        call = ["bash", str(KUBERAY / "base" / "start_night.sh"), template["metadata"]["name"]]
        return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=30, check=False)

    done = start()
    assert done.returncode == code, done.stdout + done.stderr
    made = json.loads((tmp_path / "created.json").read_text())
    assert re.fullmatch(rf"{template['metadata']['name']}-\d{{4}}-\d\d-\d\d", made["metadata"]["name"])
    # A pod that replaces this one finds the night.
    (tmp_path / "states").write_text(states[-1] + "\n")
    again = start()
    assert again.returncode == code
    assert "is there already" in again.stdout


def test_settings_of_the_night_are_settings() -> None:
    (text,) = (one["data"]["nightly.toml"] for one in objects("gpu", "ConfigMap") if "nightly.toml" in one["data"])
    values = tomllib.loads(text)
    settings = build(NightlySettings, values.pop("nightly"), "nightly")
    assert settings.archive.startswith("s3://")
    build(ClusterSettings, values.pop("cluster"), "cluster")
    assert not values


def test_versions_of_the_manifests_are_the_packages() -> None:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    for one in [*objects("gpu", "RayJob", "RayCluster"), alternative()]:
        assert all(cluster["rayVersion"] == pinned[1] for cluster in clusters(one))


def test_no_token_is_in_the_manifests() -> None:
    assert not [one for overlay in OVERLAYS for one in kustomized(overlay) if one["kind"] == "Secret"]
