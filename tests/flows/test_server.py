"""The server as a process, on SQLite and on PostgreSQL: it is found, is alone, and keeps what it was told."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.home import read_info

pytestmark = [
    pytest.mark.flow,
    pytest.mark.timeout(600),
    # Prefect's clients leave sockets and loops to the interpreter's end
    pytest.mark.filterwarnings(
        "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]

RUN = """
import sys
from pathlib import Path
from flows.home import connected
with connected(Path(sys.argv[1])):
    import time
    from prefect import flow, task

    @task
    def add(a, b):
        return a + b

    @flow(name="sum")
    def total(seconds: float):
        print("running", flush=True)
        time.sleep(seconds)
        return add(1, 2)

    assert total(float(sys.argv[2])) == 3
"""


def run_flow(home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, str(home), "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def states(home: Path) -> list[str]:
    """States of all runs of the flow `sum`, as the server lists them."""
    from flows.home import connected

    with connected(home):
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName

        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["sum"])))
    return [run.state.type.value for run in runs if run.state is not None]


def automations(home: Path) -> list[float]:
    """Seconds that the automations of a server allow for a sign of life."""
    from flows.home import connected
    from flows.server import AUTOMATION

    with connected(home):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return [one.trigger.within.total_seconds() for one in client.read_automations_by_name(AUTOMATION)]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As it was, after each test: the processes that are started here inherit it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_it_is_found_and_alone_on_its_home(
    server_home: Path, command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    info = read_info(server_home)
    assert info is not None
    status, said = command("server", "status", "--home", server_home)
    assert (status, said) == (0, f"server: {info.url} answers, process {info.pid}\n")
    status, said = command("server", "start", "--home", server_home, "--port", 0)
    assert status == 2
    assert f"a server already works on {server_home} at {info.url}" in said
    status, said = command("server", "status", "--home", tmp_path)
    assert status == 1
    assert "no server runs on" in said


def test_it_listens_on_this_machine_alone(server_home: Path) -> None:
    info = read_info(server_home)
    assert info is not None
    port = int(info.url.split(":")[2].split("/")[0])
    with socket.socket() as other:
        other.settimeout(5)
        assert other.connect_ex(("127.0.0.2", port)) != 0, "another address of the loopback must not answer"


def test_silent_runs_are_watched_for_once(server_home: Path) -> None:
    from flows.home import connected
    from flows.server import CRASHED_AFTER_S, ensure_automation

    assert automations(server_home) == [CRASHED_AFTER_S]
    with connected(server_home):
        ensure_automation()
    assert automations(server_home) == [CRASHED_AFTER_S]


def keeps_what_it_was_told(home: Path, server_on: Callable[..., Any], *options: object) -> None:
    with server_on(home, *options) as started:
        run_flow(home)
        assert started.stop() == 0, started.text()
    assert "server stopped" in started.text()
    assert not (home / "server.json").exists()
    with server_on(home, *options):
        assert states(home) == ["COMPLETED"]
        assert len(automations(home)) == 1


@pytest.mark.slow
def test_a_run_is_still_listed_after_a_restart(tmp_path: Path, server_on: Callable[..., Any]) -> None:
    before = set(Path.home().glob(".prefect*"))
    keeps_what_it_was_told(tmp_path / "home", server_on)
    assert set(Path.home().glob(".prefect*")) == before
    assert (tmp_path / "home" / "prefect" / "prefect.db").is_file()


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server of this test's own, in a temporary folder."""
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(there[-1]) if there else None)
    if initdb is None:
        pytest.skip("needs PostgreSQL's initdb on PATH or in /usr/lib/postgresql")
    # PostgreSQL refuses to run as root, and who it runs as must be able to enter its folder.
    other: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="medvision-postgres-"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secret = folder / "secret"
    secret.write_text("s3cret-word")
    secret.chmod(0o644)
    control = Path(initdb).with_name("pg_ctl")
    data = folder / "data"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    try:
        made = [initdb, "-D", data, "-U", "me", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **other)
        started = [control, "-D", data, "-w", "-o", options, "-l", folder / "log", "start"]
        subprocess.run(started, check=True, stdout=subprocess.DEVNULL, cwd=folder, **other)
        yield f"postgresql+asyncpg://me:s3cret-word@127.0.0.1:{port}/postgres"
    finally:
        stopped = [control, "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stopped, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **other)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_same_on_postgresql_whose_password_is_nowhere(
    tmp_path: Path,
    server_on: Callable[..., Any],
    command: Callable[..., tuple[int, str]],
    postgres: str,
) -> None:
    home = tmp_path / "home"
    keeps_what_it_was_told(home, server_on, "--database", postgres)
    assert not (home / "prefect" / "prefect.db").exists()
    wrong = postgres.replace("s3cret-word", "0ther-word")
    status, said = command("server", "start", "--home", tmp_path / "other", "--port", 0, "--database", wrong)
    assert status == 2
    assert "cannot be reached: password authentication failed" in said
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert b"s3cret-word" not in content and b"0ther-word" not in content, path
    assert "0ther-word" not in said


@pytest.mark.slow
def test_a_run_that_was_killed_has_crashed_and_one_that_lives_has_not(
    tmp_path: Path, server_on: Callable[..., Any], eventually: Callable[..., object]
) -> None:
    home = tmp_path / "home"
    with server_on(home, "--crashed-after", 45):
        command = [sys.executable, "-c", RUN, str(home), "70"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as lives,
        ):
            for process in (killed, lives):
                assert process.stdout is not None
                assert process.stdout.readline() == "running\n"
            killed.send_signal(signal.SIGKILL)
            assert sorted(states(home)) == ["RUNNING", "RUNNING"]
            assert eventually(lambda: "CRASHED" in states(home), 120)
            assert lives.wait(120) == 0
        assert sorted(states(home)) == ["COMPLETED", "CRASHED"]
