"""Batches of images on a real Prefect server, with a real network: small ones, made here."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvision.cli import run as medvision
from medvision.core.errors import UsageError
from medvision.evaluations.images import read_predictions
from medvision.pipelines.batch import Progress
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.image_config import ImageConfig
from medvision.pipelines.ledger_check import check_ledger
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.pseudonyms import write_key
from medvision.store.records import RunIndex

Results = Callable[[Path], dict[str, bytes]]

pytestmark = [
    pytest.mark.flow,
    pytest.mark.timeout(600),
    # Prefect's server and clients leave sockets and loops to the interpreter's end
    pytest.mark.filterwarnings(
        "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]

ONE_BATCH = Path(__file__).resolve().parents[1] / "faults" / "one_batch.py"


def write_image(path: Path, seed: int, colour: bool = False) -> Path:
    """Noise with a bright band, of a size of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (40 + seed, 56, 3) if colour else (40 + seed, 56)
    pixels = np.random.default_rng(seed).integers(0, 120, shape, np.uint8)
    pixels[10:16] += 100
    Image.fromarray(pixels).save(path)
    return path


def write_bad(folder: Path) -> list[Path]:
    """Seven files of which none is an image that can be classified."""
    whole = write_image(folder / "whole.png", 1).read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("Doe, Jane: no image at all")
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.png").unlink()
    claims = bytearray(whole)
    claims[16:24] = (70_000).to_bytes(4, "big") * 2
    (folder / "bomb.png").write_bytes(bytes(claims))
    tifffile.imwrite(folder / "stack.tif", np.zeros((3, 40, 40), np.uint8), photometric="minisblack")
    tifffile.imwrite(folder / "deep.tif", np.arange(1600, dtype=np.uint16).reshape(40, 40))
    names = ("absent.png", "empty.png", "text.png", "half.png", "bomb.png", "stack.tif", "deep.tif")
    return [folder / name for name in names]


def config_of(model: Path, **changes: object) -> ImageConfig:
    return ImageConfig.model_validate({"model": model, "device": "cpu", "batch_size": 4, **changes})


def statuses(out: Path) -> dict[str, str]:
    outcomes = RunIndex.model_validate_json((out / "index.json").read_bytes()).outcomes
    return {outcome.name: outcome.status for outcome in outcomes}


def test_seven_bad_among_thirty_fail_by_name_and_the_others_are_done(
    prefect_home: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], results: Results
) -> None:
    good = [write_image(tmp_path / "good" / f"g{number}.png", number) for number in range(23)]
    (tmp_path / "bad").mkdir()
    bad = write_bad(tmp_path / "bad")
    manifest, out = tmp_path / "cohort.csv", tmp_path / "out"
    mixed = [*good[:5], *bad, *good[5:]]
    rows = [f"scan {number},{path},patient {number},CNV\n" for number, path in enumerate(mixed)]
    manifest.write_text("image,path,patient,label\n" + "".join(rows))
    words = ["batch-images", str(manifest), "--out", str(out), "--model", str(model), "--device", "cpu"]
    words += ["--trust", "--saliency", "none"]

    assert medvision(words) == 1
    said = capsys.readouterr()
    assert "30 images, " in said.out and "30 images: 23 done, 7 failed" in said.out
    foreseen = re.findall(r"will fail: .*/bad/(\S+): ", said.err)
    assert foreseen == ["absent.png", "empty.png", "text.png", "half.png", "bomb.png", "stack.tif"], (
        "told by headers alone"
    )
    ended = statuses(out)
    failed = {f"scan {number}" for number, path in enumerate(mixed) if path in bad}
    assert {name for name, status in ended.items() if status == "failed"} == failed
    assert sorted(ended) == sorted(f"scan {number}" for number in range(30))

    with Ledger(out / LEDGER, read_only=True) as ledger:
        (run,) = ledger.runs()
        detail = ledger.run(run.run_id)
        past = {one.slide_id: one for one in ledger.results()}
    assert run.counts == {"done": 23, "failed": 7} and run.start.command.startswith("medvision batch-images")
    assert str(tmp_path) not in run.start.command and run.start.config["model"] == "tiny-oct"
    assert all(slide.outcome and slide.outcome.reason for slide in detail.slides if slide.name in failed)
    assert past["scan 0"].label in ("CNV", "DME", "NORMAL")
    assert {"energy"} <= {measure.name for measure in past["scan 0"].quality}
    assert check_ledger(out) == []

    predictions = read_predictions(out / "predictions.csv")
    assert predictions.classes == ("CNV", "DME", "NORMAL")
    assert set(predictions.images) == set(ended) - failed
    truth = tmp_path / "truth.csv"
    truth.write_text("image,label\n" + "".join(f"{name},CNV\n" for name in predictions.images))
    scored = ["evaluate", "classify", "--predictions", str(out / "predictions.csv"), "--truth", str(truth)]
    assert medvision([*scored, "--out", str(tmp_path / "scores")]) == 0
    with (out / "cohort.csv").open(newline="") as stream:
        table = {row["image_id"]: row for row in csv.DictReader(stream)}
    assert table["scan 0"]["p_CNV"] and not table["scan 5"]["p_CNV"] and table["scan 5"]["reason"]
    assert "Run of 30 images" in (out / "index.html").read_text()

    made = results(out)
    capsys.readouterr()
    assert medvision(words) == 1
    assert "30 images: 23 unchanged, 7 failed" in capsys.readouterr().out
    assert results(out) == made
    assert check_ledger(out) == []


@pytest.mark.slow
def test_processes_write_what_threads_write(
    prefect_home: Path, model: Path, results: Results, tmp_path: Path
) -> None:
    """Maps too, although a worker process sums with fewer threads."""
    from flows.local import run_batch

    for number in range(4):
        write_image(tmp_path / "in" / ("deep", "flat")[number % 2] / f"{number}.png", number, number == 3)
    found, heard = {}, list[Progress]()
    for runner, workers in (("thread", 1), ("process", 2)):
        out = tmp_path / runner
        options = BatchOptions(runner=runner, workers=workers)
        request = BatchRequest(images=tmp_path / "in", out=out, classify=config_of(model), options=options)
        outcomes = run_batch(request, heard.append)
        assert [outcome.status for outcome in outcomes] == ["done"] * 4
        assert "unlike" in outcomes[-1].reason or "colour" in outcomes[-1].reason, "the last one is in colour"
        found[runner] = results(out)
    assert found["thread"] == found["process"]
    names = {Path(name).parts[0] for name in found["thread"]}
    assert names == {"deep__0", "flat__1", "deep__2", "flat__3"}
    assert heard[-1].ended == heard[-1].items == 4
    ids = read_predictions(tmp_path / "thread" / "predictions.csv").images
    assert ids == ("deep/0.png", "deep/2.png", "flat/1.png", "flat/3.png"), "as a folder's labels call them"


def test_no_name_leaves_a_run_with_pseudonyms(prefect_home: Path, model: Path, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId

    from flows.classify import classify

    for number in range(2):
        write_image(tmp_path / "in" / "Canary^Jane" / f"Canary^Jane 19700101 {number}.png", number)
    (tmp_path / "in" / "Canary^Richard.png").write_bytes(b"no image at all")
    out = tmp_path / "out"
    options = BatchOptions(pseudonym_key=write_key(tmp_path / "key"))
    request = BatchRequest(images=tmp_path / "in", out=out, classify=config_of(model), options=options)
    state = classify(request, return_state=True)
    assert state.is_failed() and state.message == "1 of 3 images failed"
    assert sorted(statuses(out).values()) == ["done", "done", "failed"]
    assert all(re.fullmatch("image-[0-9a-f]{16}", name) for name in statuses(out))

    flow_run = state.state_details.flow_run_id
    assert flow_run is not None
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(
            task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[flow_run]))
        )
    assert {task.name: task.run_count for task in tasks} == {"image 1": 1, "image 2": 1, "image 3": 1}
    for path in (*out.rglob("*"), *prefect_home.rglob("*")):
        assert "Canary" not in path.name
        if path.is_file():
            assert b"Canary" not in path.read_bytes(), path


def test_a_flow_refuses_what_is_for_the_other(prefect_home: Path, model: Path, tmp_path: Path) -> None:
    from flows.batch import batch

    write_image(tmp_path / "in" / "a.png", 1)
    request = BatchRequest(images=tmp_path / "in", out=tmp_path / "out", classify=config_of(model))
    state = batch(request, return_state=True)
    with pytest.raises(UsageError, match="a request of images is for the flow 'classify', not for 'batch'"):
        state.result()
    assert not (tmp_path / "out" / LEDGER).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model: is missing"),
        (["--model", "absent.safetensors"], "absent.safetensors"),
        (
            ["--model", "MODEL", "--saliency", "magic"],
            "--saliency magic: input should be 'gradcam', 'occlusion'",
        ),
        (["--model", "MODEL", "--image-window", "9,1"], "is no window"),
        (["--model", "MODEL", "--saliency-class", "GLAUCOMA"], "GLAUCOMA"),
        (["--model", "MODEL", "--workers", "2"], "--workers 2 is for --runner process or dask"),
        (["--model", "MODEL", "--pattern", "*.zzz"], "holds no file that matches *.zzz"),
        (["--model", "MODEL"], "none of 1 image can be classified"),
    ],
)
def test_what_cannot_work_is_said_before_a_run_begins(
    words: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    asked = [str(model) if word == "MODEL" else word for word in words]
    assert medvision(["batch-images", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *asked]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / LEDGER).exists()


def test_settings_may_come_from_a_file(
    prefect_home: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "a.png", 1)
    write_image(tmp_path / "in" / "b.jpg", 2)
    settings = tmp_path / "images.yaml"
    settings.write_text(json.dumps({"model": "another", "saliency": "none", "device": "cpu", "trust": True}))
    words = ["batch-images", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--config", str(settings)]
    assert medvision([*words, "--pattern", "*.png", "--model", str(model)]) == 0
    assert statuses(tmp_path / "out") == {"a": "done"}
    result = json.loads((tmp_path / "out" / "a" / "result.json").read_bytes())
    assert result["saliency"] is None
    # The page of one folder is of one kind of thing.
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").write_bytes(b"no slide")
    capsys.readouterr()
    assert medvision(["batch", str(tmp_path / "slides"), "--out", str(tmp_path / "out")]) == 2
    assert "holds results of images; name another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    prefect_home: Path, model: Path, results: Results, tmp_path: Path
) -> None:
    """kill -9 of the whole batch once some images have their results: the next run does the others."""
    from flows.local import run_batch

    for number in range(30):
        write_image(tmp_path / "in" / f"{number:02d}.png", number)
    config = config_of(model, saliency="occlusion")

    def request_to(out: Path) -> BatchRequest:
        return BatchRequest(
            images=tmp_path / "in", out=out, classify=config, options=BatchOptions(trust=True)
        )

    undisturbed = request_to(tmp_path / "undisturbed")
    assert {outcome.status for outcome in run_batch(undisturbed)} == {"done"}

    request = request_to(tmp_path / "out")
    (tmp_path / "request.json").write_text(request.model_dump_json())
    process = subprocess.Popen([sys.executable, str(ONE_BATCH), str(tmp_path / "request.json")])
    until = time.monotonic() + 120
    while len(list(request.out.glob("*/manifest.json"))) < 5 and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = len(list(request.out.glob("*/manifest.json")))
    assert 5 <= there < 30, "it was killed in the middle"

    outcomes = run_batch(request)
    assert {outcome.status for outcome in outcomes} == {"done", "unchanged"}
    assert results(request.out) == results(undisturbed.out)
    with Ledger(request.out / LEDGER, read_only=True) as ledger:
        assert sorted(run.state for run in ledger.runs()) == ["finished", "interrupted"]
    assert check_ledger(request.out) == []
    predictions = [(out.out / "predictions.csv").read_bytes() for out in (request, undisturbed)]
    assert predictions[0] == predictions[1]
