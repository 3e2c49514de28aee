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
