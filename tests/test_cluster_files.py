"""`cluster/` without Kubernetes: the image, units of systemd, the job of Slurm, the file for AWS, and all commands.

What needs a program that is absent is skipped and says so.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from programs import program
from typer.main import get_command

from diffad_ray.cli import app
from diffad_ray.versions import VERSION

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
CALL = re.compile(r"(?:jobs/(\w+)\.py|(?:^|[ /])(?<!-n )diffad-ray ([a-z][\w-]+))( [^'\n]*)", re.MULTILINE)
"A command of ours: its verb, and the rest of the line."


def commands() -> Iterator[tuple[str, str]]:
    """Every command of ours in `cluster/` and in the page, with the file that has it."""
    for path in sorted([*CLUSTER.rglob("*"), ROOT / "docs" / "cluster.md"]):
        if path.suffix in (".yaml", ".service", ".sh", ".sbatch", ".md"):
            text = path.read_text()
            if path.suffix == ".yaml":
                text = "\n".join(entrypoints(list(yaml.safe_load_all(text))))
            elif path.suffix == ".md":
                text = "\n".join(re.findall(r"^ *```.*?\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL))
            for job, verb, arguments in CALL.findall(text.replace("\\\n", " ")):
                yield str(path.relative_to(ROOT)), f"{job or verb}{arguments}"


def entrypoints(value: Any) -> Iterator[str]:
    """The commands in a manifest: those of jobs, those that a patch sets, and those that `ray up` runs."""
    if isinstance(value, list):
        for one in value:
            yield from entrypoints(one)
    elif isinstance(value, dict):
        if value.get("path") == "/spec/entrypoint":
            yield value["value"]
        for name, one in value.items():
            if name == "entrypoint":
                yield one
            elif name == "patch":
                yield from entrypoints(yaml.safe_load(one))
            else:
                yield from entrypoints(one)


@pytest.mark.parametrize(("where", "command"), list(commands()))
def test_commands_are_those_of_the_command_line(where: str, command: str) -> None:
    # Numbers stand for what a shell or systemd computes.
    plain = re.sub(r'"?\$\(\(.*?\)\)"?|\$\{?\w+\}?', "1", command)
    words = shlex.shlex(plain, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    verb, *arguments = itertools.takewhile(lambda word: not set(word) <= set("();<>|&"), words)
    get_command(app).commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]


def test_there_are_commands_to_parse() -> None:
    assert {"train", "score", "nightly"} <= {command.split()[0] for _, command in commands()}


def test_shell_programs() -> None:
    scripts = [path for path in CLUSTER.rglob("*") if path.suffix in (".sh", ".sbatch")]
    assert len(scripts) >= 2
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run([program("shellcheck"), *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_units_of_systemd(tmp_path: Path) -> None:
    units = sorted(CLUSTER.glob("systemd/*.service")) + sorted(CLUSTER.glob("systemd/*.timer"))
    assert len(units) == 4
    for unit in units:
        text = unit.read_text()
        # The programs are on the machines of users, not here.
        (tmp_path / unit.name).write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
        if unit.suffix == ".service":
            assert "EnvironmentFile=/etc/diffad-ray/environment" in text
            assert "LoadCredential=auth_token:" in text
    call = [program("systemd-analyze"), "verify", "--man=no", *(tmp_path / unit.name for unit in units)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    environment = (CLUSTER / "systemd" / "environment").read_text()
    assert "RAY_AUTH_MODE=token\n" in environment
    assert "RAY_USAGE_STATS_ENABLED=0\n" in environment
    used = {name for unit in units for name in re.findall(r"\$\{(\w+)\}", unit.read_text())}
    assert used <= set(re.findall(r"^(\w+)=", environment, re.MULTILINE))


def test_slurms_job_has_a_token_of_its_own() -> None:
    text = (CLUSTER / "slurm" / "nightly.sbatch").read_text()
    assert "export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0\n" in text


def test_options_of_ray_start_are_rays_own() -> None:
    """In units, in the job of Slurm and in the file of AWS: parsed by Ray's own command line."""
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for path in [*CLUSTER.glob("systemd/*.service"), *CLUSTER.glob("slurm/*"), CLUSTER / "aws.yaml"]:
        text = path.read_text().replace("\\\n", " ").replace("\n    --", " --")
        for call in re.findall(r"\bray start( [^\n]*)", text):
            assert set(re.findall(r"(?<= )--[\w-]+", call)) <= known, call


def test_aws_follows_rays_own_checks() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    settings = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    validate_config(prepare_config(settings))
    worker = settings["available_node_types"]["worker"]
    assert worker["min_workers"] == worker["max_workers"] == settings["max_workers"]
    assert settings["docker"]["image"].endswith(f"/diffad-ray:{VERSION}-cuda")
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert {"--env RAY_AUTH_MODE=token", "--env RAY_USAGE_STATS_ENABLED=0"} <= set(settings["docker"]["run_options"])
    assert "/home/ray/.ray/auth_token" in settings["file_mounts"]
    # Ray's defaults would install another version of Ray, from a server of nightly builds.
    assert settings["setup_commands"] == []
    settings["available_node_types"]["worker"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(settings))


def test_dockerfile() -> None:
    file = CLUSTER / "Dockerfile"
    done = subprocess.run([program("hadolint"), file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = file.read_text()
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert f"ARG RAY_VERSION={pinned['ray']}\n" in text
    assert f"ARG TORCH_VERSION={pinned['torch']}\n" in text
    assert "RAY_AUTH_MODE=token" in text
    assert "RAY_USAGE_STATS_ENABLED=0" in text
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users == ["1000"]
    copied = [one for line in re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE) for one in line.split()[:-1]]
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        if not name.startswith("--"):
            assert (ROOT / name).exists()
            assert f"!{name}" in let_in


def test_dockerfiles_list_of_requirements_is_the_packages() -> None:
    """The line of the Dockerfile that makes it is run here; the steps that install packages run in test_package.py."""
    text = (CLUSTER / "Dockerfile").read_text()
    found = re.search(r'python -c "(import tomllib.*?)" \\\n', text)
    assert found
    made = subprocess.run([sys.executable, "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert made.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["cpu"]]


def test_no_token_is_in_the_repository() -> None:
    for path in CLUSTER.rglob("*"):
        if path.is_file():
            assert not re.search(r"\b[0-9a-f]{32,}\b", path.read_text()), path
