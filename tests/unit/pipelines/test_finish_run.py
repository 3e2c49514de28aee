"""The end of a run: outcomes of runs that end at once are all listed, and a bad output folder is wrong usage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medvision.core.errors import UsageError
from medvision.pipelines.analyze import analyze_slides
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.ledger_check import check_ledger
from medvision.pipelines.recorded import Recorded
from medvision.pipelines.run import finish_run
from medvision.store.records import RunIndex

RUN = """
import sys, time
from pathlib import Path
from medvision.pipelines import run
from medvision.store.records import SlideOutcome

whole = run.read_record
def slow(path, kind):
    found = whole(path, kind)
    time.sleep(0.5)
    return found

run.read_record = slow
outcome = SlideOutcome(slide=sys.argv[2], name=sys.argv[2], status="failed", reason="why", seconds=1)
print("ready", flush=True)
sys.stdin.readline()
run.finish_run(Path(sys.argv[1]), [outcome])
"""


def test_runs_that_end_at_once_list_all_outcomes(tmp_path: Path) -> None:
    finish_run(tmp_path, [])
    names = ["a", "b", "c"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for process in runs:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in runs:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in runs:
        process.communicate(timeout=60)
        assert process.returncode == 0
    listed = json.loads((tmp_path / "index.json").read_text())["outcomes"]
    assert [outcome["name"] for outcome in listed] == names


@pytest.mark.parametrize("out", ["file", "file/x"])
def test_a_file_in_the_way_is_wrong_usage(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is there and is not a folder"):
        finish_run(tmp_path / out, [])


def test_slides_of_one_name_are_kept_apart_from_run_to_run(tmp_path: Path) -> None:
    """Slides that cannot be read have no result to be told apart by; their names are."""
    out, config = tmp_path / "out", AnalyzeConfig(device="cpu")
    for place in ("first", "second", "first"):
        slide = tmp_path / place / "x.svs"
        slide.parent.mkdir(exist_ok=True)
        slide.write_bytes(b"no slide")
        with Recorded([slide], out, config, "medvision analyze") as recorded:
            (outcome,) = recorded.take(analyze_slides([slide], out, config))
        assert outcome.status == "failed" and outcome.called == (
            "second/x.svs" if place == "second" else "x.svs"
        )
    index = RunIndex.model_validate_json((out / "index.json").read_bytes())
    assert [one.called for one in index.outcomes] == ["x.svs", "second/x.svs"]
    assert check_ledger(out) == []
