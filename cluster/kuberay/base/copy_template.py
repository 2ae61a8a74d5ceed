"""Turn a suspended template, a RayJob or RayCluster as JSON on stdin, into a copy that runs, on stdout.

    kubectl get rayjob diffad-ray-train --output json | python copy_template.py train-gear | kubectl create --filename -

Needs the standard library alone, because it also runs from a ConfigMap.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

LONGEST = {"RayJob": 47, "RayCluster": 53}
"Characters of a name, which the operator refuses beyond."
NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def copy_template(template: dict[str, Any], name: str, owner: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return the object to create.

    Args:
        template: the object as the Kubernetes API returns it.
        name: of the copy.
        owner: name and UID of the Job with which Kubernetes deletes the copy.

    Raises:
        ValueError: the template is of another kind, or the operator would refuse the name.
    """
    kind = template["kind"]
    if kind not in LONGEST:
        raise ValueError(f"a template is a RayJob or a RayCluster, and this is a {kind}")
    if len(name) > LONGEST[kind] or not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of a {kind}: take at most {LONGEST[kind]} of a-z, 0-9 and -, and begin with a letter"
        )
    metadata: dict[str, Any] = {"name": name, "namespace": template["metadata"]["namespace"]}
    if owner:
        owned = {"apiVersion": "batch/v1", "kind": "Job", "name": owner[0], "uid": owner[1]}
        metadata["ownerReferences"] = [owned]
    spec = {field: value for field, value in template["spec"].items() if field not in ("suspend", "jobId")}
    return {"apiVersion": template["apiVersion"], "kind": kind, "metadata": metadata, "spec": spec}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name of the copy")
    parser.add_argument("--owner", nargs=2, metavar=("NAME", "UID"), help="the Job that owns the copy")
    asked = parser.parse_args()
    try:
        made = copy_template(json.load(sys.stdin), asked.name, tuple(asked.owner) if asked.owner else None)
    except ValueError as error:
        sys.exit(f"copy_template.py: {error}")
    json.dump(made, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
