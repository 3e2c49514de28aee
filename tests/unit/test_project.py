"""Rules that hold for the project as a whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "monai",
    "segmentation_models_pytorch",
    "prefect",
    "numpy",
    "scipy",
    "cv2",
    "skimage",
    "sklearn",
    "matplotlib",
    "zarr",
    "pyarrow",
}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def loaded_after(code: str) -> set[str]:
    """Top-level modules in memory after running `code` in a fresh interpreter."""
    tail = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"], check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_is_free() -> None:
    loaded = loaded_after("import medvision")
    assert not loaded & (HEAVY | {"pydantic", "cyclopts"})


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["analyze"],
        ["check"],
        ["info"],
        ["demo"],
        ["features"],
        ["aggregate"],
        ["train", "mil"],
        ["evaluate", "skin"],
        ["embed"],
        ["taxonomy"],
        ["batch"],
        ["batch-scans"],
        ["nodules"],
        ["batch-segment"],
        ["segment"],
        ["models", "show"],
        ["runs"],
        ["server", "start"],
        ["schedule", "create"],
    ],
    ids=lambda c: " ".join(c) or "none",
)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    loaded = loaded_after(f"from medvision.cli import run\nrun({[*command, '--help']!r})")
    assert not loaded & HEAVY


def test_constraints_are_versions_only_and_cover_the_dependencies() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
        assert match, f"{line!r} is more than a version"
        pinned[normal(match[1])] = match[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(d for extra in project["optional-dependencies"].values() for d in extra),
    ]
    names = {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in wanted}
    assert names <= pinned.keys()
    assert not pinned["torch"].startswith("2.13.0")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_file_names_a_machine_or_an_index() -> None:
    names = re.compile(
        rb"(?<![\w.])/(?:work|root|home/\w+)/|\bpypi"
        rb"\.org|files\.python"
        rb"hosted|--(?:extra-)?index-url|\bfind-links(?! wheels )"  # a folder beside is no index
    )
    offenders = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix not in (".png", ".ttf", ".otf", ".woff2", ".safetensors")
        and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if names.search(line)
    }
    assert offenders == set()


def test_files_are_small_and_weights_at_most_8_mb() -> None:
    for path in tracked():
        limit = 8_000_000 if path.suffix == ".safetensors" else 2_000_000
        assert path.stat().st_size <= limit, path


def test_nothing_is_left_unfinished() -> None:
    marks = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b|NotImplemented" r"Error")
    offenders = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in (".py", ".md", ".toml", ".yml", ".html", ".typ")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marks.search(line)
    ]
    assert offenders == []


def documented_commands() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = set()
    for page in pages:
        for block in re.findall(
            r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        ):
            found |= set(re.findall(r"^\$? ?medvision ([a-z][a-z ]*)", block, re.MULTILINE))
    return sorted({" ".join(words.split()[:1]) for words in found})


def test_every_documented_command_exists() -> None:
    from medvision.cli import app

    documented = documented_commands()
    assert "analyze" in documented
    assert set(documented) <= set(app)


def test_every_documented_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
