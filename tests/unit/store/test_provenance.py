"""What made a result."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import medvision
from medvision.store import code_digest, new_run_id, software_versions, utc_now


def digest_of(package_parent: Path) -> str:
    code = "from medvision.store import code_digest; print(code_digest())"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=package_parent, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_code_digest_follows_the_code_and_not_its_place(tmp_path: Path) -> None:
    package = Path(medvision.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "fonts")
    shutil.copytree(package, tmp_path / "a" / "medvision", ignore=ignore)
    shutil.copytree(package, tmp_path / "b" / "medvision", ignore=ignore)
    one = digest_of(tmp_path / "a")
    assert digest_of(tmp_path / "b") == one
    path = tmp_path / "b" / "medvision" / "core" / "digest.py"
    path.write_text(path.read_text() + "\n")
    assert digest_of(tmp_path / "b") != one
    assert re.fullmatch(r"[0-9a-f]{64}", code_digest())


def test_versions_name_what_computes() -> None:
    versions = software_versions()
    assert versions["medvision"] == medvision.__version__
    assert {"python", "numpy", "torch", "tifffile", "openslide-python"} <= versions.keys()


def test_times_and_run_ids() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", utc_now())
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", run_id) for run_id in ids)
