"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the shared real data; tests that want it skip, with the reason, where it is absent."""
    given = os.environ.get("MEDVISION_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared real data, and {folder} is absent (set MEDVISION_DATA)")
    return folder


@pytest.fixture(scope="session")
def smoke_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the smoke cohort, drawn once: seven slides of some 1,400 px with their truth and `cohort.csv`."""
    from medvision.cli import run

    out = tmp_path_factory.mktemp("cohort")
    config = Path(__file__).resolve().parents[1] / "configs" / "cohort-smoke.yaml"
    assert run(["synthesize", "cohort", "--config", str(config), "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="session")
def results() -> Callable[[Path], dict[str, bytes]]:
    """`results(out)`: the files below an output folder that repeat between equal runs, by path."""
    of_run = {"run.json", "manifest-run.json", "report.html", "report.pdf"}

    def read(out: Path) -> dict[str, bytes]:
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in sorted(out.glob("*/**/*"))
            if path.is_file() and path.name not in of_run and ".medvision" not in path.parts
        }

    return read
