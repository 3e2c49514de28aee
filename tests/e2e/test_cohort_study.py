"""The study of every method on one cohort, on tiny slides: each command runs, and the table has its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "cohort_study.py"


@pytest.mark.slow
def test_the_smoke_study_scores_every_method(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), "--smoke", "--out", str(tmp_path)], check=True)
    study = json.loads((tmp_path / "study.json").read_text())
    rows = {row["folder"]: row for row in study["rows"]}
    wanted = {"shipped", "patch", "patch-nms", "lesions", "base", "ncrf"}
    wanted |= {"abmil", "clam-sb", "clam-mb", "dsmil", "transmil", "cnn-lstm"}
    assert set(rows) == {f"results/{name}" for name in wanted}  # a forest needs more slides
    assert all(0 <= row["auc"]["value"] <= 1 and 0 <= row["froc"]["score"] <= 1 for row in rows.values())
    assert rows["results/shipped"]["froc"]["score"] > 0
    table = (tmp_path / "study.md").read_text()
    assert all(row["name"] in table for row in rows.values())
