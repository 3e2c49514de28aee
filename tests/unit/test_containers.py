"""Dockerfile and Kubernetes files: what can be held without a daemon or a cluster (see docs/schedule.md)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    parts = [tuple(line.split(None, 1)) for line in lines]
    assert all(len(part) == 2 for part in parts)
    return [(part[0], part[1]) for part in parts]


def copied() -> list[tuple[list[str], str]]:
    """Sources and target of what is copied from the project."""
    found = []
    for name, arguments in instructions():
        words = shlex.split(arguments)
        if name == "COPY" and not words[0].startswith("--from"):
            found.append((words[:-1], words[-1]))
    return found


def is_ignored(path: str) -> bool:
    """By .dockerignore: the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        kept = pattern.startswith("!")
        pattern = pattern.lstrip("!")
        ends = pattern.removeprefix("**/")
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        if any(
            fnmatch(one, pattern) or (ends != pattern and fnmatch(Path(one).name, ends)) for one in parents
        ):
            ignored = not kept
    return ignored


def test_the_dockerfile_uses_plain_instructions_and_an_unprivileged_user() -> None:
    found = instructions()
    names = [name for name, _ in found]
    assert set(names) <= KNOWN
    last = dict(found)
    assert last["USER"] == "10001:10001"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert json.loads(last["ENTRYPOINT"]) == ["medvision"]
    bases = {arguments.split()[0] for name, arguments in found if name == "FROM"}
    assert len(bases) == 1, "what was built on one base must run on the same"
    assert re.fullmatch(r"python:3\.1[1-9]-slim-\w+", bases.pop()), "no registry is named"
    assert "--constraint constraints.txt" in " ".join(a for name, a in found if name == "RUN")


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    sources = [source for some, _ in copied() for source in some]
    assert set(sources) == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "medvision", "flows"}
    for source in sources:
        assert (ROOT / source).exists()
        assert not is_ignored(source)
    kept = [
        "medvision/models/weights/a.safetensors",
        "medvision/report/templates/report.html",
        "flows/batch.py",
    ]
    assert not any(map(is_ignored, kept))
    left = [
        ".git/config",
        "tests/conftest.py",
        "slides/Doe^Jane.svs",
        "out/report.html",
        "medvision-home/server.json",
    ]
    assert all(map(is_ignored, [*left, "medvision/__pycache__/a.pyc", "medvision/core/__pycache__/a.pyc"]))


@pytest.mark.slow
def test_what_is_copied_builds_and_starts(tmp_path: Path) -> None:
    """The image's COPY steps, and its installation without the dependencies, which the test's own interpreter has."""
    source = tmp_path / "src"
    source.mkdir()
    for sources, target in copied():
        for name in sources:
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    source / target / ".",
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"),
                )
            else:
                shutil.copy(ROOT / name, source / target)
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        ".",
    ]
    subprocess.run([*map(str, install)], cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    code = "import medvision, flows.batch; from medvision.cli import run; print(medvision.__file__); run(['models'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONPATH": str(site),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PREFECT_HOME": str(tmp_path / "p"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert "camelyon-mini" in done.stdout
    assert list(site.glob("medvision/models/weights/*.safetensors"))


def pods() -> list[dict[str, Any]]:
    """The pod of the plain job and that of the work pool."""
    job = yaml.safe_load((ROOT / "configs" / "kubernetes-job.yaml").read_text())
    pool = json.loads((ROOT / "configs" / "kubernetes-work-pool.json").read_text())
    return [one["spec"]["template"]["spec"] for one in (job, pool["job_configuration"]["job_manifest"])]


def test_both_pods_are_confined_alike() -> None:
    job, pool = pods()
    for pod in (job, pool):
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert mounts["slides"]["readOnly"] is True
        assert mounts["scratch"]["mountPath"] == "/tmp"
    assert job["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    same = (
        "securityContext",
        "terminationGracePeriodSeconds",
        "restartPolicy",
        "automountServiceAccountToken",
    )
    assert {key: job[key] for key in same} == {key: pool[key] for key in same}
    assert job["containers"][0]["volumeMounts"] == pool["containers"][0]["volumeMounts"]


def test_every_placeholder_of_the_work_pool_is_a_variable_with_a_default() -> None:
    pool = json.loads((ROOT / "configs" / "kubernetes-work-pool.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(pool["job_configuration"])))
    variables = pool["variables"]["properties"]
    assert used == set(variables)
    assert all("default" in variable for variable in variables.values())
    assert variables["gpus"]["default"] == 1


def test_the_jobs_command_is_one_of_ours() -> None:
    from medvision.cli import app

    job, _ = pods()
    arguments = job["containers"][0]["args"]
    assert arguments[1:] == ["/slides", "--out", "/results"]
    assert arguments[0] in set(app)


@pytest.mark.parametrize(("place", "flow"), [(0, "batch"), (1, "classify"), (2, "nodules"), (3, "segment")])
def test_a_deployment_names_its_flow_and_starts_nothing_by_itself(place: int, flow: str) -> None:
    from medvision.pipelines.batch_config import BatchRequest

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert len(deployments) == 4
    deployment = deployments[place]
    path, function = deployment["entrypoint"].split(":")
    assert re.search(rf"^def {function}\(request: BatchRequest\)", (ROOT / path).read_text(), re.MULTILINE)
    request = BatchRequest.model_validate(deployment["parameters"]["request"])
    assert request.work.flow == flow == function
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    assert deployment["concurrency_limit"]["limit"] == 1
