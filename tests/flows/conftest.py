"""A real server and a real serving process for the tests of schedules, each started once, in folders of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Started:
    """A `medvision` process; what it prints goes to `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        """SIGTERM, as from a service manager; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def until(what: Callable[[], object], seconds: float = 180) -> object:
    """Wait until `what` is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    return found


def clean_environment() -> dict[str, str]:
    """The environment without what would lead a process to another server, or another database."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MEDVISION_"))
    }


@contextmanager
def medvision(log: Path, *arguments: object) -> Iterator[Started]:
    """Start a command in the background, and stop it at the end if it has not been."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "medvision.cli", *map(str, arguments)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=clean_environment(),
        )
    started = Started(process, log)
    try:
        yield started
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def running_server(home: Path, *options: object) -> Iterator[Started]:
    """A server on a free port, once it answers."""
    log = home.with_suffix(".server.log")
    with medvision(log, "server", "start", "--home", home, "--port", 0, *options) as started:
        answers = until(lambda: (home / "server.json").is_file() or started.process.poll() is not None)
        assert answers and started.process.poll() is None, started.text()
        yield started


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One server for all batches here, with its home in a temporary folder."""
    home = tmp_path_factory.mktemp("prefect")
    from flows.local import prefect_settings

    with prefect_settings(home):
        yield home


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier of grey images: what it says does not matter here, only that it repeats."""
    import torch

    from medvision.models.classifiers.start import build
    from medvision.models.image_contract import ImageContract, Scope
    from medvision.models.weights import write_weights

    torch.manual_seed(0)
    scope = Scope(energy=50.0, brightness=(0.0, 1.0), aspect=(0.5, 2.0), smallest_px=16, grey=True)
    contract = ImageContract(
        architecture="slim-resnet", classes=("CNV", "DME", "NORMAL"), input_px=32, scope=scope
    )
    path = tmp_path_factory.mktemp("weights") / "tiny-oct.safetensors"
    write_weights(path, build("slim-resnet", 3).state_dict(), contract.model_dump(mode="json"))
    return path


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home of a server that runs."""
    home = tmp_path_factory.mktemp("server") / "home"
    with running_server(home):
        yield home


@pytest.fixture(scope="session")
def server_on() -> Callable[..., AbstractContextManager[Started]]:
    """`with server_on(home, *options) as started: ...`"""
    return running_server


@pytest.fixture(scope="session")
def background() -> Callable[..., AbstractContextManager[Started]]:
    """`with background(log, "schedule", "serve", ...) as started: ...`"""
    return medvision


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """`eventually(what, seconds)` waits until `what()` is true and returns it."""
    return until


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command; its status and all that it printed. The environment is afterwards as it was."""
    from medvision.cli import run

    before = dict(os.environ)
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        status = run([*map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out + said.err

    yield called
    os.environ.clear()
    os.environ.update(before)
