"""Schedules as files, and what is refused before any server is asked."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from flows import schedules, server
from flows.home import ServerInfo, api_url, info_file, read_info
from flows.schedules import Cron, Schedule, Watch, new_schedule
from medvision.cli import run as medvision
from medvision.core.errors import StoreError, UnknownNameError, UsageError
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.image_config import ImageConfig


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchRequest:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    return BatchRequest(
        slides=Path("slides"), out=Path("out"), analyze=AnalyzeConfig(weights=Path("net.safetensors"))
    )


@pytest.fixture
def arrivals(request_: BatchRequest) -> Schedule:
    return new_schedule("arrivals", request_, Watch(settle_s=5))


def test_paths_are_absolute_as_another_process_will_run_it(arrivals: Schedule, tmp_path: Path) -> None:
    assert arrivals.request.slides == tmp_path / "slides"
    assert arrivals.request.out == tmp_path / "out"
    assert arrivals.request.analyze.weights == tmp_path / "net.safetensors"


def test_a_schedule_of_images_is_kept_and_says_so(request_: BatchRequest, tmp_path: Path) -> None:
    config = ImageConfig(model=Path("oct.safetensors"), saliency="none")
    images = BatchRequest(images=Path("slides"), out=Path("out"), classify=config)
    made = new_schedule("oct", images, Watch(settle_s=5))
    assert made.request.images == tmp_path / "slides"
    assert made.request.classify is not None and made.request.classify.model == tmp_path / "oct.safetensors"
    assert made.words() == "images that arrive (the same for 5 s)"
    schedules.create(tmp_path / "home", made)
    assert schedules.load(tmp_path / "home", "oct") == made


def test_a_schedule_from_before_images_is_read(arrivals: Schedule, tmp_path: Path) -> None:
    schedules.create(tmp_path, arrivals)
    path = tmp_path / "schedules" / "arrivals.json"
    stored = json.loads(path.read_text())
    for name in ("images", "classify"):
        del stored["request"][name]
    stored["request"]["options"]["pattern"] = ["*.svs"]
    path.write_text(json.dumps(stored))
    found = schedules.load(tmp_path, "arrivals")
    assert (found.request.inputs, found.request.patterns) == (tmp_path / "slides", ("*.svs",))


def test_a_schedule_is_kept_and_found_again(arrivals: Schedule, tmp_path: Path) -> None:
    home = tmp_path / "home"
    schedules.create(home, arrivals)
    assert schedules.load_all(home) == [arrivals]
    with pytest.raises(UsageError, match="'arrivals' already"):
        schedules.create(home, arrivals.model_copy(update={"name": "Arrivals"}))
    schedules.remove(home, "arrivals")
    assert schedules.names(home) == []
    with pytest.raises(UnknownNameError, match=r"no schedule 'arrivals' in .*: none"):
        schedules.load(home, "arrivals")


def test_a_damaged_file_is_named(arrivals: Schedule, tmp_path: Path) -> None:
    schedules.create(tmp_path, arrivals)
    (tmp_path / "schedules" / "arrivals.json").write_text('{"name": 1}')
    with pytest.raises(StoreError, match=r"arrivals\.json: not a schedule"):
        schedules.load(tmp_path, "arrivals")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "ä", "a" * 64, "-x", "a\n"])
def test_names_are_plain(request_: BatchRequest, name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        new_schedule(name, request_, Watch())


def test_only_folders_can_be_watched_and_slides_must_be_there(request_: BatchRequest, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("slide_id,path\n")
    with pytest.raises(UsageError, match="only a folder can be watched"):
        new_schedule("a", request_.model_copy(update={"slides": Path("list.csv")}), Watch())
    with pytest.raises(UsageError, match="absent: no such"):
        new_schedule("a", request_.model_copy(update={"slides": Path("absent")}), Watch())


def test_an_unknown_timezone_is_named(request_: BatchRequest) -> None:
    with pytest.raises(UsageError, match="Mars/Olympus"):
        new_schedule("a", request_, Cron(cron="0 20 * * *", timezone="Mars/Olympus"))


def test_the_clock_has_a_timezone() -> None:
    from zoneinfo import ZoneInfo

    ZoneInfo(schedules.local_timezone())


def test_the_address_is_the_environments_then_the_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(UsageError, match="medvision server start"):
        api_url(tmp_path)
    info = ServerInfo(url="http://127.0.0.1:1/api", pid=1)
    info_file(tmp_path).write_text(info.model_dump_json())
    assert read_info(tmp_path) == info
    assert api_url(tmp_path) == info.url
    monkeypatch.setenv("PREFECT_API_URL", "http://other/api")
    assert api_url(tmp_path) == "http://other/api"


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} "):
            server.start(tmp_path, print, port=port)
    with pytest.raises(UsageError, match="--crashed-after 30: expected more than 30"):
        server.start(tmp_path, print, port=0, crashed_after_s=30)
    with pytest.raises(UsageError, match="port 99999 "):
        server.start(tmp_path, print, port=99999)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+asyncpg://me:s3cret@127.0.0.1:9/db", "cannot be reached"),
        ("postgresql://me:s3cret@127.0.0.1/db", r"works with postgresql\+asyncpg"),
        ("mysql+pymysql://me:s3cret@h/db", "not mysql"),
        ("s3cret", "no database URL"),
    ],
)
def test_a_database_that_cannot_be_had_is_said_without_its_password(
    tmp_path: Path, url: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        server.start(tmp_path, print, port=0, database=url)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--watch", "--settle", "inf"), "--settle inf: expected a number of seconds above 0"),
        (("--watch", "--settle", "nan"), "--settle nan: expected a number of seconds above 0"),
        (("--watch", "--settle", "0"), "--settle 0: expected a number of seconds above 0"),
        (("--watch", "--timezone", "UTC"), "--timezone UTC is for --cron"),
        (("--watch", "--address", "tcp://h:1"), "address tcp://h:1 is for the dask runner, not thread"),
        (("--watch", "--cron", "0 20 * * *"), "either --cron 'MINUTE HOUR DAY MONTH WEEKDAY' or --watch"),
        ((), "either --cron 'MINUTE HOUR DAY MONTH WEEKDAY' or --watch"),
        (("--cron", "0 20 * * *", "--settle", "5"), "--settle 5 is for --watch"),
    ],
)
def test_a_wrong_command_is_one_error_and_no_schedule(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slides").mkdir()
    home = tmp_path / "home"
    where = (str(tmp_path / "slides"), "--out", str(tmp_path / "out"), "--home", str(home))
    assert medvision(["schedule", "create", "nightly", *where, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("medvision: error: ") and said.count("\n") == 1
    assert message in said
    assert schedules.names(home) == []
