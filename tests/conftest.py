"""Fixtures for every test."""

from __future__ import annotations

import os
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
