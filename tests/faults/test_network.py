"""An analysis with the network cut off: nothing is looked up, nothing is sent, nothing leaves its folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medvision.synthetic import SlideRecipe, write_synthetic_slide

PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[4])
seen = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        target = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = target[0] if isinstance(target, tuple) else target
        text = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
        local = isinstance(target, (str, bytes)) and event == "socket.connect"  # a socket of this machine by its path
        if not local and text not in ("127.0.0.1", "::1", "localhost", "None", ""):
            seen.append([event, text])
            raise OSError(f"no network: {event} {text}")
sys.addaudithook(hook)
from medvision.cli import run
slides = json.loads(sys.argv[1])
status = run(["analyze", *slides, "--out", sys.argv[2], "--device", "cpu"])
with open(sys.argv[3], "w") as stream:
    json.dump({"status": status, "seen": seen}, stream)
"""


def isolated() -> list[str]:
    """How to start a program in a network of its own with nothing in it; empty where the system does not let us."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    for options in (["-n"], ["-rn"]):
        if subprocess.run([unshare, *options, "true"], capture_output=True, check=False).returncode == 0:
            return [unshare, *options]
    return []


@pytest.mark.slow
def test_an_analysis_needs_no_network_and_writes_in_its_folder_only(tmp_path, fault_row):
    row = fault_row("network blocked", "analysis of a slide with a hostile name, through a link")
    made = write_synthetic_slide(
        SlideRecipe(seed=5, shape_px=(1400, 1600), metastases="micro"), tmp_path / "made"
    ).slide
    slides = tmp_path / "in"
    slides.mkdir()
    names = ["<img src=x onerror=alert(1)>\n\u202e.tif", "link.tif"]
    shutil.copy(made, slides / names[0])
    (slides / names[1]).symlink_to(made)
    told, out = tmp_path / "told.json", tmp_path / "out"
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    command = [
        *isolated(), sys.executable, "-c", PROGRAM, json.dumps([str(slides / name) for name in names]), str(out),
        str(told), str(Path(__file__).resolve().parents[2]),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(os.environ) | {"DO_NOT_TRACK": "1"}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(told.read_text())
    assert found == {"status": 0, "seen": []}
    outcomes = json.loads((out / "index.json").read_text())["outcomes"]
    assert [outcome["status"] for outcome in outcomes] == ["done"] * 2
    for page in out.rglob("*.html"):
        assert "<img src=x" not in page.read_text(encoding="utf-8")
    for path in out.rglob("*"):
        assert path.name.isprintable() and not path.is_symlink()
    after = {path for path in tmp_path.rglob("*") if out not in path.parents} - {out, told}
    assert after == before
    row.count("done without one look-up", len(outcomes))
    row.note = "in a network namespace of its own" if isolated() else "by an audit hook alone"
