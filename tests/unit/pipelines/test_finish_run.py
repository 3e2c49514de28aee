"""The end of a run: outcomes of runs that end at once are all listed, and a bad output folder is wrong usage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medvision.core.errors import UsageError
from medvision.pipelines.run import finish_run

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
