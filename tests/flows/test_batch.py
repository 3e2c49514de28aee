"""The batch flow on a real Prefect server, with real slides and a real network: small ones, made here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medvision.core.errors import UsageError
from medvision.pipelines.batch import Progress
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.config import AnalyzeConfig
from medvision.store.journal import Entry
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.records import RunIndex, SlideOutcome

Results = Callable[[Path], dict[str, bytes]]

pytestmark = [
    pytest.mark.flow,
    pytest.mark.timeout(600),
    # Prefect's server and clients leave sockets and loops to the interpreter's end
    pytest.mark.filterwarnings(
        "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]


def write_slide(path: Path, seed: int) -> Path:
    """A tiled TIFF of pink tissue on white with dark nuclei, 0.25 µm/px."""
    random = np.random.default_rng(seed)
    pixels = np.full((1536, 1536, 3), 245, np.uint8)
    tissue = random.normal((205, 140, 190), 12, (1024, 1024, 3))
    nuclei = random.random((256, 256)).repeat(4, 0).repeat(4, 1) > 0.8
    tissue[nuclei] -= (110, 80, 50)
    pixels[256:1280, 256:1280] = tissue.clip(0, 255)
    resolution = (1e4 / 0.25, 1e4 / 0.25)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER"
    )
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    return [write_slide(folder / f"Doe^Jane {number}.tif", number) for number in (1, 2)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AnalyzeConfig:
    """An untrained network with weights of its own: what it says does not matter here, only that it repeats."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(squeezenet1_1(num_classes=2).state_dict(), weights)
    return AnalyzeConfig(
        model="squeezenet1_1",
        weights=weights,
        classes=("normal", "tumor"),
        spacing=1.0,
        window=64,
        stride=64,
        batch_size=4,
        readers=1,
        device="cpu",
    )


def test_flow_and_loop_write_the_same_bytes(
    prefect_home: Path, slides: list[Path], config: AnalyzeConfig, results: Results, tmp_path: Path
) -> None:
    from flows.local import run_analyze
    from medvision.pipelines.analyze import analyze_slides

    through_flow = run_analyze(slides, tmp_path / "flow", config)
    in_loop = list(analyze_slides(slides, tmp_path / "loop", config))

    assert [outcome.status for outcome in through_flow] == ["done", "done"]
    assert strip(through_flow) == strip(in_loop)
    files = results(tmp_path / "flow")
    assert any(name.endswith("result.json") for name in files)
    assert files == results(tmp_path / "loop")
    assert not list((tmp_path / "flow" / ".medvision").glob("slides-*.json"))


def strip(outcomes: list[SlideOutcome]) -> list[SlideOutcome]:
    return [outcome.model_copy(update={"seconds": 0.0}) for outcome in outcomes]


def test_a_bad_slide_fails_the_flow_after_the_others_were_tried(
    prefect_home: Path, slides: list[Path], config: AnalyzeConfig, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId

    from flows.batch import batch

    bad = tmp_path / "Roe^Richard.svs"
    bad.write_bytes(b"no slide at all")
    manifest = tmp_path / "cohort.csv"
    rows = [f"{number},{path}\n" for number, path in enumerate((slides[0], bad, slides[1]), start=1)]
    manifest.write_text("slide_id,path\n" + "".join(rows))
    request = BatchRequest(slides=manifest, out=tmp_path / "out", analyze=config)
    state = batch(request, return_state=True)

    assert state.is_failed()
    assert state.message == "1 of 3 slides failed"
    outcomes = RunIndex.model_validate_json((tmp_path / "out" / "index.json").read_bytes()).outcomes
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    assert bad.name in outcomes[1].reason

    flow_run = state.state_details.flow_run_id
    assert flow_run is not None
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(
            task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[flow_run]))
        )
    attempts = {task.name: task.run_count for task in tasks}
    assert attempts == {"slide 1": 1, "slide 2": 1, "slide 3": 1}, "a corrupt slide is not tried again"

    kept = b"".join(path.read_bytes() for path in prefect_home.rglob("*") if path.is_file())
    assert b"slide 2" in kept
    assert b"Jane" not in kept and b"Richard" not in kept, "Prefect's database must not hold a file name"

    with Ledger(tmp_path / "out" / LEDGER, read_only=True) as ledger:
        (run,) = ledger.runs()
        slides_of_run = ledger.run(run.run_id).slides
    assert run.state == "finished" and run.counts == {"done": 2, "failed": 1}
    assert [slide.verdict for slide in slides_of_run] == ["done", "failed", "done"]
    assert not list((tmp_path / "out" / ".medvision" / "journal").iterdir()), "the ledger has all of it"


def test_only_what_may_pass_is_worth_another_try(prefect_home: Path) -> None:
    from prefect.client.schemas.objects import TaskRun
    from prefect.states import Failed

    from flows.batch import analyze_one
    from flows.rounds import ItemFailed, is_worth_retrying

    def worth(error: Exception) -> bool:
        run = TaskRun.model_construct()
        return is_worth_retrying(analyze_one, run, Failed(data=error))

    failed = SlideOutcome(slide="a", name="a", status="failed", reason="r")
    assert worth(ItemFailed(failed.model_copy(update={"transient": True})))
    assert not worth(ItemFailed(failed))
    assert not worth(ValueError("a mistake of ours"))


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["process", "dask"])
def test_workers_write_what_one_process_writes(
    runner: str,
    prefect_home: Path,
    slides: list[Path],
    config: AnalyzeConfig,
    results: Results,
    tmp_path: Path,
) -> None:
    from flows.local import run_batch
    from medvision.pipelines.analyze import analyze_slides

    if runner == "dask":
        pytest.importorskip("prefect_dask")
    options = BatchOptions(runner=runner, workers=2)
    request = BatchRequest(slides=slides[0].parent, out=tmp_path / "out", analyze=config, options=options)
    heard: list[Progress] = []
    by_workers = run_batch(request, heard.append)
    in_loop = list(analyze_slides(sorted(slides), tmp_path / "loop", config))

    assert [outcome.status for outcome in by_workers] == ["done", "done"]
    assert strip(by_workers) == strip(in_loop)
    assert results(tmp_path / "out") == results(tmp_path / "loop")
    assert sorted(outcome.name for state in heard for outcome in state.new) == sorted(o.name for o in in_loop)
    assert heard[-1].ended == 2 and heard[-1].bytes_done == heard[-1].bytes_all


@pytest.mark.slow
def test_a_lost_worker_costs_an_attempt_and_no_slide(
    prefect_home: Path, slides: list[Path], config: AnalyzeConfig, tmp_path: Path
) -> None:
    """The first worker at slide 1 is killed by its own network; the run starts workers anew, twice at most."""
    from flows.local import run_batch

    options = BatchOptions(runner="process", workers=1, attempts=2)
    out = tmp_path / "out"
    request = BatchRequest(slides=slides[0].parent, out=out, analyze=config, options=options)
    killed = threading.Event()

    def kill_first() -> None:
        while not killed.is_set():
            for path in (out / ".medvision" / "journal").glob("*/00001-1.json"):
                entry = Entry.model_validate_json(path.read_bytes())
                os.kill(int(entry.worker.rpartition(":")[2]), signal.SIGKILL)
                killed.set()
            time.sleep(0.01)

    thread = threading.Thread(target=kill_first)
    thread.start()
    try:
        outcomes = run_batch(request)
    finally:
        killed.set()
        thread.join()
    assert all(outcome.status in ("done", "resumed") for outcome in outcomes)
    with Ledger(out / LEDGER, read_only=True) as ledger:
        (run,) = ledger.runs()
        first = ledger.run(run.run_id).slides[0]
    assert [attempt.end.verdict for attempt in first.attempts if attempt.end] == [
        "interrupted",
        outcomes[0].status,
    ]


def test_a_wrong_model_is_reported_as_in_a_plain_run(
    prefect_home: Path, slides: list[Path], tmp_path: Path
) -> None:
    from flows.local import run_analyze
    from medvision.pipelines.analyze import analyze_slides

    wrong = AnalyzeConfig(model="no-such-model")
    with pytest.raises(LookupError) as through_flow:
        run_analyze(slides, tmp_path, wrong)
    with pytest.raises(LookupError) as in_loop:
        list(analyze_slides(slides, tmp_path, wrong))
    assert str(through_flow.value) == str(in_loop.value)


def test_an_output_that_is_a_file_is_wrong_usage(
    slides: list[Path], config: AnalyzeConfig, tmp_path: Path
) -> None:
    from flows.local import run_analyze

    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file is there and is not a folder"):
        run_analyze(slides, tmp_path / "file" / "out", config)


ALONE = """
import json, sys
from pathlib import Path
from flows.local import run_analyze
from medvision.pipelines.config import AnalyzeConfig
config = AnalyzeConfig.model_validate_json(sys.argv[3])
print(json.dumps([o.status for o in run_analyze([Path(sys.argv[1])], Path(sys.argv[2]), config)]))
"""


@pytest.mark.slow
def test_alone_it_writes_nowhere_but_below_the_output_folder(
    slides: list[Path], config: AnalyzeConfig, tmp_path: Path
) -> None:
    """Without any server, in a fresh process: the embedded one starts, and leaves the home folder as it was."""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(slides[0]), str(out), config.model_dump_json()],
        env={**plain, "HOME": str(home)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == '["done"]'
    assert done.stderr == ""
    assert {path.name for path in home.rglob("*") if "prefect" in path.name.lower()} == set()
    assert (out / ".medvision" / "prefect" / "prefect.db").is_file()
