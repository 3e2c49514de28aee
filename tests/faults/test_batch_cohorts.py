"""Whole batches through the command, Prefect and all: bad slides, a lost server, a full disk, and names of patients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from medvision.pipelines.ledger_check import check_ledger
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.manifest import verify
from medvision.store.pseudonyms import write_key
from medvision.store.records import RunIndex

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1800)]

CANARY = "Qwzxcanary"
"""Stands in every field that could name a patient; no text of ours holds it."""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`medvision` with these arguments."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return subprocess.run(
        [sys.executable, "-m", "medvision.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1500,
        env=plain,
    )


def pixels(seed: int, side: int = 1024) -> np.ndarray:
    """Pink tissue on white."""
    noise = np.random.default_rng(seed)
    made = np.full((side, side, 3), 245, np.uint8)
    edge = side // 6
    made[edge:-edge, edge:-edge] = noise.normal(
        (205, 140, 190), 12, (side - 2 * edge, side - 2 * edge, 3)
    ).clip(0, 255)
    return made


def write_slide(path: Path, seed: int, **tags: object) -> Path:
    """A tiled TIFF at 0.25 µm/px."""
    options = {"resolution": (4e4, 4e4), "resolutionunit": "CENTIMETER"} | tags
    tifffile.imwrite(path, pixels(seed), tile=(256, 256), photometric="rgb", **options)
    return path


def bad_slides(folder: Path) -> dict[str, Path]:
    """Seven slides that cannot be analysed, by what is wrong with them."""
    made = {
        name: folder / f"bad-{name}.tif" for name in ("absent", "empty", "text", "cut", "hollow", "folder")
    }
    made["empty"].touch()
    made["text"].write_text("not a slide")
    whole = write_slide(folder / "whole.tmp", 99).read_bytes()
    made["cut"].write_bytes(whole[: len(whole) // 3])
    made["folder"].mkdir()
    with tifffile.TiffFile(folder / "whole.tmp") as file:
        page = file.pages[0]
        data = bytearray(whole)
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            data[offset : offset + count] = b"\xff" * count
    # Uncompressed tiles of any bytes are pixels; a compressed one of nothing but 255 is not.
    packed = write_slide(folder / "packed.tmp", 98, compression="deflate")
    damaged = bytearray(packed.read_bytes())
    with tifffile.TiffFile(packed) as file:
        page = file.pages[0]
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            damaged[offset : offset + count] = b"\xff" * count
    made["hollow"].write_bytes(bytes(damaged))
    made["unspaced"] = write_slide(folder / "bad-unspaced.tif", 97, resolution=(1, 1), resolutionunit="NONE")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("slides", [12, 100])
def test_seven_bad_slides(slides: int, tmp_path: Path, fault_row: Callable[[str, str], Any]) -> None:
    row = fault_row(f"batch of {slides} with 7 bad", "7 failures by name, all others done, exit 1")
    folder = tmp_path / "slides"
    folder.mkdir()
    bad = bad_slides(folder)
    good = {f"good-{n:03d}": write_slide(folder / f"good-{n:03d}.tif", n) for n in range(slides - len(bad))}
    rows = sorted(
        [*good.items(), *((f"bad-{name}", path) for name, path in bad.items())], key=lambda row: row[0][::-1]
    )
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("slide_id,path\n" + "".join(f"{slide_id},{path}\n" for slide_id, path in rows))
    out = tmp_path / "out"
    done = run("batch", manifest, "--out", out, "--stride", "112")
    assert done.returncode == 1, done.stderr
    assert f"{slides} slides: {len(good)} done, 7 failed" in done.stdout

    outcomes = RunIndex.model_validate_json((out / "index.json").read_bytes()).outcomes
    assert Counter(outcome.status for outcome in outcomes) == {"done": len(good), "failed": 7}
    for outcome in outcomes:
        assert (outcome.status == "failed") == outcome.name.startswith("bad-"), outcome
        assert (out / outcome.name / "report.html").exists() == (outcome.status == "done")
        assert outcome.reason == "" or "unexpected" not in outcome.reason, outcome.reason
    assert check_ledger(out) == []

    again = run("batch", manifest, "--out", out, "--stride", "112")
    assert again.returncode == 1
    assert f"{slides} slides: {len(good)} unchanged, 7 failed" in again.stdout
    row.count("done", len(good))
    row.count("failed, with their reasons", 7)


@pytest.mark.slow
def test_the_server_is_killed(tmp_path: Path, fault_row: Callable[[str, str], Any]) -> None:
    row = fault_row("Prefect's server killed mid-batch", "no slide lost, exit 0")
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    for number in range(12):
        write_slide(folder / f"{number}.tif", number)
    command = [
        sys.executable,
        "-m",
        "medvision.cli",
        "batch",
        str(folder),
        "--out",
        str(out),
        "--stride",
        "56",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    note = out / ".medvision" / "prefect" / "medvision-server.pid"
    until = time.monotonic() + 120
    while len(list(out.glob("*/manifest.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    killed = int(note.read_text())
    os.kill(killed, 9)
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "12 slides: 12 done" in said
    assert int(note.read_text()) != killed if note.exists() else True
    assert check_ledger(out) == []
    row.count("done", 12)


@pytest.mark.slow
@pytest.mark.parametrize("size_mb", [8, 4])
def test_the_disk_is_full(size_mb: int, tmp_path: Path, fault_row: Callable[[str, str], Any]) -> None:
    """A real file system of some MB, mounted where nobody else sees it; it needs the right to mount.

    Prefect's database takes 6 MB: in 8 some slides fit beside it, in 4 nothing can begin.
    """
    row = fault_row(
        f"disk full (a real one of {size_mb} MB)",
        "the slide fails, earlier outputs intact, exit status not 0",
    )
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs unshare and the right to mount a small file system")
    folder, mount = tmp_path / "slides", tmp_path / "small"
    folder.mkdir()
    mount.mkdir()
    for number in range(8):
        write_slide(folder / f"{number}.tif", number)
    inner = (
        f"mount -t tmpfs -o size={size_mb}m tmpfs {mount} && "
        f"{sys.executable} -m medvision.cli batch {folder} --out {mount}/out --stride 28 > {tmp_path}/said 2>&1;"
        f" echo $? > {tmp_path}/status; cp -r {mount}/out {tmp_path}/out"
    )
    made = subprocess.run(["unshare", "-m", "sh", "-c", inner], capture_output=True, text=True, timeout=600)
    if not (tmp_path / "status").exists():
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")
    said = (tmp_path / "said").read_text()
    status = int((tmp_path / "status").read_text())
    assert "Traceback" not in said
    whole = [path.parent for path in (tmp_path / "out").glob("*/manifest.json")]
    if size_mb == 4:
        assert status == 2 and "Prefect's database needs 6 MB" in said
        row.count("refused before the first slide")
        return
    assert status == 1 and "No space left on device" in said, said
    assert 0 < len(whole) < 8
    for entry in whole:
        assert verify(entry) == ()
    assert said.count("     failed  ") == 8 - len(whole)
    row.count("whole", len(whole))
    row.count("failed by name", 8 - len(whole))


def planted(folder: Path) -> Path:
    """A folder of slides with a canary in the names and in every text field of the files."""
    inner = folder / f"{CANARY}Folder"
    inner.mkdir(parents=True)
    text = (
        f"Aperio Image Library v11\n1024x1024 |AppMag = 40|MPP = 0.25|Patient = {CANARY}Patient|"
        f"User = {CANARY}User|Filename = {CANARY}File|Title = {CANARY}Title|Date = 01/02/03|"
        f"ScanScope ID = {CANARY}Scope"
    )
    tags = {
        "description": text,
        "software": f"{CANARY}Software",
        "datetime": "2001:02:03 04:05:06",
        "extratags": [(code, 2, 0, f"{CANARY}{code}", True) for code in (269, 315, 316, 33432, 700)],
    }
    write_slide(inner / f"{CANARY}^Jane 1970.svs", 1, **tags)
    write_slide(inner / f"{CANARY}_Roe.tif", 2, **{**tags, "description": f"{CANARY}Plain"})
    (inner / f"{CANARY}-broken.svs").write_bytes(f"{CANARY} no slide at all".encode())
    return folder


def readable(path: Path) -> bytes:
    """A file's bytes, and what is compressed in it, read by a program of its kind."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        import pyarrow.parquet

        data += str(pyarrow.parquet.read_table(path).to_pydict()).encode()
    if path.suffix == ".pdf" and shutil.which("pdftotext"):
        data += subprocess.run(["pdftotext", str(path), "-"], capture_output=True, check=True).stdout
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            data += "".join(str(tag.value) for page in file.pages for tag in page.tags.values()).encode()
    return data


@pytest.mark.slow
def test_no_byte_names_a_patient(tmp_path: Path, fault_row: Callable[[str, str], Any]) -> None:
    row = fault_row(
        "patient data in file names, folders and tags",
        "not one byte in reports, logs, ledger, Prefect's database",
    )
    folder = planted(tmp_path / "in")
    key, out = write_key(tmp_path / "key"), tmp_path / "out"
    done = run("batch", folder, "--out", out, "--stride", "112", "--pseudonym-key", key)
    assert done.returncode == 1
    assert "3 slides: 2 done, 1 failed" in done.stdout
    assert CANARY not in done.stdout + done.stderr

    listed = run("pseudonyms", folder, "--key", key)
    assert listed.returncode == 0 and listed.stdout.count(CANARY) == 6, "whoever has the key can tell"
    aliases = {line.rpartition(",")[2] for line in listed.stdout.splitlines()[1:]}
    with Ledger(out / LEDGER, read_only=True) as ledger:
        slides = ledger.run(ledger.runs()[0].run_id).slides
    assert {slide.slide_id for slide in slides} == {slide.name for slide in slides} == aliases

    files = [path for path in out.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in files) and any(path.suffix == ".pdf" for path in files)
    for path in files:
        assert CANARY not in str(path.relative_to(out)), path
        assert CANARY.encode() not in readable(path), path
    for record in out.glob("*/result.json"):
        facts = json.loads(record.read_bytes())["slide"]
        assert facts["name"] in aliases
        assert not any("2001" in value or "01/02/03" in value for value in facts["metadata"].values())
    row.count("files without a canary", len(files))
