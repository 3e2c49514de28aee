"""Schedules as a person uses them: the commands, a real server, a real serving process, small slides made here."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

pytestmark = [
    pytest.mark.flow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings(
        "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]

Command = Callable[..., tuple[int, str]]
Eventually = Callable[..., object]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """As it was, after each test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def write_slide(path: Path) -> Path:
    """A tiled TIFF of pink tissue on white with dark nuclei, 0.25 µm/px."""
    random = np.random.default_rng(0)
    pixels = np.full((1024, 1024, 3), 245, np.uint8)
    tissue = random.normal((205, 140, 190), 12, (768, 768, 3))
    tissue[(random.random((192, 192)).repeat(4, 0).repeat(4, 1)) > 0.8] -= (110, 80, 50)
    pixels[128:896, 128:896] = tissue.clip(0, 255)
    spacing = (1e4 / 0.25, 1e4 / 0.25)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=spacing, resolutionunit="CENTIMETER"
    )
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name an untrained network: what it says does not matter here."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    save_file(squeezenet1_1(num_classes=2).state_dict(), folder / "net.safetensors")
    settings = {"model": "squeezenet1_1", "weights": str(folder / "net.safetensors"), "device": "cpu"}
    settings |= {"classes": ["normal", "tumor"], "spacing": 1.0, "window": 64, "stride": 64, "readers": 1}
    (folder / "analysis.yaml").write_text(json.dumps(settings))
    return ["--config", str(folder / "analysis.yaml"), "--batch-size", "4"]


@pytest.fixture
def serving(
    server_home: Path, background: Callable[..., Any], eventually: Eventually, tmp_path: Path
) -> Iterator[Any]:
    """A serving process on the server of all tests."""
    with background(tmp_path / "serve.log", "schedule", "serve", "--home", server_home) as started:
        assert eventually(lambda: "serving the schedules" in started.text()), started.text()
        yield started


def runs(home: Path, name: str) -> list[tuple[str, dict[str, Any]]]:
    """State and parameters of the runs of a schedule that are not still to come, oldest first."""
    from flows.home import connected

    with connected(home):
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name]))
            )
    found.sort(key=lambda run: run.created)
    return [
        (run.state.type.value, run.parameters)
        for run in found
        if run.state is not None and not run.state.is_scheduled()
    ]


def test_a_schedule_from_its_making_to_its_removal(
    server_home: Path, command: Command, eventually: Eventually, tmp_path: Path
) -> None:
    at = ("--home", server_home)
    (tmp_path / "slides").mkdir()
    made = ("schedule", "create", "nightly", tmp_path / "slides", "--out", tmp_path / "out")
    status, said = command(*made, "--cron", "0 20 * * *", "--timezone", "Asia/Tokyo", *at)
    assert (status, "no server" in said) == (0, False), said
    # Prefect makes the runs to come in the background; where its scheduler is broken it never does
    listed = eventually(
        lambda: re.search(
            r"nightly .* active .*(\d{4}-\d\d-\d\d \d\d:\d\d)", command("schedule", "list", *at)[1]
        )
    )
    assert isinstance(listed, re.Match), command("schedule", "list", *at)
    assert "0 20 * * * (Asia/Tokyo)" in listed.string

    assert command("schedule", "pause", "nightly", *at)[0] == 0
    said = command("schedule", "list", *at)[1]
    assert re.search(r"nightly .* paused *\n", said), "no next run"
    assert command("schedule", "resume", "nightly", *at)[0] == 0

    assert command("schedule", "remove", "nightly", *at)[0] == 0
    assert command("schedule", "list", *at)[1] == f"no schedule in {server_home}\n"
    status, said = command("schedule", "run-now", "nightly", *at)
    assert status == 2
    assert "no schedule 'nightly'" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cron", "0 99 * * *"), "--cron '0 99 * * *': not a cron expression"),
        (("--cron", "0 9 * * *", "--timezone", "Mars/X"), "--timezone Mars/X: no such timezone"),
        (("--cron", "0 9 * * *", "--settle", "5"), "--settle 5 is for --watch"),
        (("--watch", "--settle", "0"), "--settle 0: expected a number of seconds above 0"),
        (("--watch", "--cron", "0 9 * * *"), "either --cron"),
        (("--watch", "--pool", "absent"), "--pool absent: no such work pool"),
        (("--watch", "--config", "absent.yaml"), "absent.yaml: cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    server_home: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    words: str,
    command: Command,
) -> None:
    made = ("schedule", "create", "wrong", tmp_path, "--out", tmp_path / "out")
    status, said = command(*made, *options, "--home", server_home)
    assert status == 2
    assert words in said
    assert not (server_home / "schedules" / "wrong.json").exists()


def test_a_slide_that_arrives_is_analysed_once_it_is_whole_and_its_name_stays_here(
    server_home: Path,
    serving: Any,
    command: Command,
    eventually: Eventually,
    network: list[str],
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "scanner", tmp_path / "out"
    folder.mkdir()
    made = ("schedule", "create", "arrivals", folder, "--out", out, "--watch", "--settle", 2)
    assert command(*made, *network, "--home", server_home)[0] == 0
    assert eventually(lambda: "arrivals: slides that arrive" in serving.text()), "taken up without a restart"

    whole = write_slide(tmp_path / "whole.tif").read_bytes()
    growing = folder / "Doe^Jane.tif"
    for end in range(0, len(whole), len(whole) // 4):
        growing.write_bytes(whole[:end])
        time.sleep(0.7)  # it goes on for longer than the time it must stay the same
        assert "new slide" not in serving.text()
    growing.write_bytes(whole)
    assert eventually(lambda: "Z.csv completed" in serving.text()), serving.text()
    assert len(list(out.glob("*/result.json"))) == 1

    [(state, parameters)] = runs(server_home, "arrivals")
    assert state == "COMPLETED"
    manifest = Path(parameters["request"]["slides"])
    assert manifest.parent == out / ".medvision" / "watch" / "arrivals"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ\.csv", manifest.name)
    with sqlite3.connect(server_home / "prefect" / "prefect.db") as database:
        kept = "\n".join(database.iterdump())
    assert manifest.name in kept
    assert "Doe^" not in kept and "Jane" not in kept, "Prefect's database must not hold a slide's name"

    command("schedule", "remove", "arrivals", "--home", server_home)


@pytest.mark.slow
def test_images_that_arrive_are_classified_and_prefect_learns_no_name(
    server_home: Path, serving: Any, command: Command, eventually: Eventually, model: Path, tmp_path: Path
) -> None:
    folder, out, at = tmp_path / "oct", tmp_path / "out", ("--home", server_home)
    folder.mkdir()
    made = ("schedule", "create-images", "oct", folder, "--out", out, "--watch", "--settle", 1)
    status, said = command(*made, "--model", model, "--device", "cpu", "--saliency", "none", *at)
    assert (status, "images that arrive" in said) == (0, True), said
    assert eventually(lambda: "oct: images that arrive" in serving.text()), serving.text()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8)
        Image.fromarray(pixels).save(folder / f"Roe^Richard {number}.png")
    assert eventually(lambda: "Z.csv completed" in serving.text()), serving.text()
    assert "oct: 2 new images, listed in" in serving.text()
    assert "2 images classified" in serving.text()
    assert len(list(out.glob("*/result.json"))) == 2
    assert "Roe^Richard 1.png," in (out / "predictions.csv").read_text()
    assert re.search(r"oct .*images that arrive", command("schedule", "list", *at)[1])
    with sqlite3.connect(server_home / "prefect" / "prefect.db") as database:
        kept = "\n".join(database.iterdump())
    assert "image 2" in kept and "Roe^" not in kept and "Richard" not in kept
    assert command("schedule", "remove", "oct", *at)[0] == 0


@pytest.mark.slow
def test_what_was_taken_is_remembered_and_what_was_cut_short_is_continued(
    server_home: Path,
    background: Callable[..., Any],
    command: Command,
    eventually: Eventually,
    network: list[str],
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "scanner", tmp_path / "out"
    folder.mkdir()
    slide = write_slide(folder / "a.tif")
    made = ("schedule", "create", "again", folder, "--out", out, "--watch", "--settle", 1)
    assert command(*made, *network, "--home", server_home)[0] == 0
    serve = ("schedule", "serve", "--home", server_home)
    with background(tmp_path / "first.log", *serve) as first:
        assert eventually(lambda: "RUNNING" in dict(runs(server_home, "again"))), first.text()
        assert first.stop() == 0, first.text()
    with background(tmp_path / "second.log", *serve) as second:
        assert eventually(lambda: "is continued" in second.text()), second.text()
        assert eventually(lambda: "Z.csv completed" in second.text()), second.text()
        assert "new slide" not in second.text()
        assert [state for state, _ in runs(server_home, "again")][-1] == "COMPLETED"
        refused = command(*serve)
        assert refused[0] == 2 and "another process serves" in refused[1]
        assert command("schedule", "run-now", "again", "--home", server_home)[0] == 0
        assert eventually(
            lambda: [state for state, _ in runs(server_home, "again")][-2:] == ["COMPLETED"] * 2
        )
        os.utime(slide, ns=(0, 0))
        assert eventually(lambda: "new slide" in second.text()), "a slide that was replaced is a new one"
    command("schedule", "remove", "again", "--home", server_home)


@pytest.mark.slow
def test_cron_runs_by_itself_and_one_run_makes_up_for_those_that_were_missed(
    server_home: Path,
    background: Callable[..., Any],
    command: Command,
    eventually: Eventually,
    network: list[str],
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    write_slide(folder / "a.tif")
    made = ("schedule", "create", "minutely", folder, "--out", out, "--cron", "* * * * *")
    assert command(*made, *network, "--home", server_home)[0] == 0
    time.sleep(125)  # two of them are due, and nobody serves
    with background(tmp_path / "serve.log", "schedule", "serve", "--home", server_home) as serving:
        assert eventually(lambda: "one run makes up for them" in serving.text()), serving.text()
        assert eventually(lambda: runs(server_home, "minutely")), serving.text()
        assert command("schedule", "pause", "minutely", "--home", server_home)[0] == 0
        assert eventually(lambda: {state for state, _ in runs(server_home, "minutely")} == {"COMPLETED"})
        assert len(runs(server_home, "minutely")) <= 2
    assert len(list(out.glob("*/result.json"))) == 1
    command("schedule", "remove", "minutely", "--home", server_home)


POOL = """
import sys
from pathlib import Path
from flows.home import connected
with connected(Path(sys.argv[1])):
    from prefect.cli import app
    sys.argv = ["prefect", *sys.argv[2:]]
    app()
"""


def prefect(home: Path, *arguments: str) -> str:
    """Prefect's own command, on the server of `home`."""
    done = subprocess.run(
        [sys.executable, "-c", POOL, str(home), *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_work_pool_without_a_limit_runs_nothing(
    server_home: Path, command: Command, network: list[str], tmp_path: Path
) -> None:
    """`prefect.yaml` as it is, a real worker, first without the limit and then with it."""
    folder = tmp_path / "slides"
    folder.mkdir()
    write_slide(folder / "a.tif")
    prefect(server_home, "work-pool", "create", "gpu", "--type", "process")
    template = ("--base-job-template", "configs/kubernetes-work-pool.json")
    assert "Created" in prefect(server_home, "work-pool", "create", "k8s", "--type", "kubernetes", *template)
    assert "successfully created" in prefect(server_home, "--no-prompt", "deploy", "--all")
    settings = json.loads(Path(network[1]).read_text())
    request = {"slides": str(folder), "out": str(tmp_path / "out"), "analyze": settings}
    asked = ("deployment", "run", "batch/evening", "--params", json.dumps({"request": request}))
    worked = ("worker", "start", "--pool", "gpu", "--run-once")

    prefect(server_home, *asked)
    prefect(server_home, *worked)
    assert [state for state, _ in runs(server_home, "evening")] == ["FAILED"]
    message = last_message(server_home, "evening")
    assert "work pool 'gpu' has no concurrency limit" in message
    assert "prefect work-pool set-concurrency-limit 'gpu' 1" in message

    prefect(server_home, "work-pool", "set-concurrency-limit", "gpu", "1")
    prefect(server_home, *asked)
    prefect(server_home, *worked)
    assert [state for state, _ in runs(server_home, "evening")] == ["FAILED", "COMPLETED"]
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 1


def last_message(home: Path, name: str) -> str:
    from flows.home import connected

    with connected(home):
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

        with get_client(sync_client=True) as client:
            [run] = client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])), limit=1
            )
    assert run.state is not None
    return run.state.message or ""


def test_a_named_limit_that_does_not_exist_is_refused(server_home: Path) -> None:
    from flows.home import connected
    from medvision.core.errors import UsageError

    with connected(server_home):
        from prefect import flow, tags
        from prefect.client.orchestration import get_client

        from flows.limits import require_limits

        @flow
        def guarded() -> tuple[str, ...]:
            return require_limits()

        with (
            tags("limit:scanner", "other"),
            pytest.raises(UsageError, match="concurrency-limit create 'limit:scanner'"),
        ):
            guarded()
        with get_client(sync_client=True) as client:
            client.create_concurrency_limit(tag="limit:scanner", concurrency_limit=1)
        with tags("limit:scanner", "other"):
            assert guarded() == ("limit:scanner",)
        assert guarded() == ()
    assert require_limits() == (), "outside a flow there is nothing to limit"
