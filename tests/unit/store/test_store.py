"""The result store: what is published is whole, and what is reused is what was asked for."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvision.core.errors import StoreError, UsageError
from medvision.store import ResultSpec, ResultStore, publish_folder, read_manifest, verify

SPEC = ResultSpec(kind="analyze", name="a.svs", source="00", model="11", config={"threshold": 0.5})


def write_result(folder: Path) -> None:
    (folder / "result.json").write_text('{"value": 1}\n')
    (folder / "crops").mkdir()
    (folder / "crops" / "1.png").write_bytes(b"\x89PNG" * 1000)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_made_once_then_found(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    first = store.get_or_make(SPEC, write_result, name="a")
    assert first.made and first.folder == tmp_path / "a" and first.key == SPEC.key
    before = snapshot(first.folder)

    second = store.get_or_make(SPEC, write_result, name="a")
    assert not second.made
    assert snapshot(second.folder) == before
    assert store.find(SPEC, name="a") == second
    assert verify(first.folder) == ()


def test_default_name_is_the_key(tmp_path: Path) -> None:
    entry = ResultStore(tmp_path).get_or_make(SPEC, write_result)
    assert entry.folder.name == SPEC.key[:32]


@pytest.mark.parametrize(
    "change",
    [
        {"source": "01"},
        {"model": "12"},
        {"config": {"threshold": 0.6}},
        {"config": {}},
        {"code": "0" * 64},
        {"software": {"torch": "0.0"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_matters(tmp_path: Path, change: dict[str, object]) -> None:
    store = ResultStore(tmp_path)
    store.get_or_make(SPEC, write_result, name="a")
    other = SPEC.model_copy(update=change)
    assert other.key != SPEC.key
    assert store.find(other, name="a") is None
    assert store.get_or_make(other, write_result, name="a").made
    manifest = read_manifest(tmp_path / "a")
    assert manifest is not None and manifest.spec == other


def test_equal_runs_write_equal_manifests(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        write_result(folder)
        (folder / "run.json").write_text(str(time.time_ns()))

    one = ResultStore(tmp_path / "1").get_or_make(SPEC, make, name="a", of_run=["run.json"]).folder
    two = ResultStore(tmp_path / "2").get_or_make(SPEC, make, name="a", of_run=["run.json"]).folder
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()
    assert (one / "manifest-run.json").read_bytes() != (two / "manifest-run.json").read_bytes()
    (one / "run.json").write_text("another")
    assert len(verify(one)) == 1


def test_made_anew_when_tampered_with(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    folder = store.get_or_make(SPEC, write_result, name="a").folder
    whole = snapshot(folder)
    (folder / "result.json").write_text('{"value": 2}\n')
    assert verify(folder) == (f"{folder / 'result.json'} was altered after it was written",)
    assert store.get_or_make(SPEC, write_result, name="a").made
    assert snapshot(folder) == whole

    (folder / "crops" / "1.png").unlink()
    assert "missing" in verify(folder)[0]
    assert store.get_or_make(SPEC, write_result, name="a").made

    (folder / "manifest.json").write_text("{")
    assert store.get_or_make(SPEC, write_result, name="a").made
    assert verify(folder) == ()


def test_what_a_person_left_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    folder = publish_folder(tmp_path / "a", SPEC, write_result).folder
    assert (tmp_path / "a.set-aside-1" / "notes.txt").read_text() == "mine"
    assert verify(folder) == ()

    (folder / "more.txt").write_text("mine too")
    assert not publish_folder(folder, SPEC, write_result).made, (
        "a note beside a result does not invalidate it"
    )
    publish_folder(folder, SPEC.model_copy(update={"source": "99"}), write_result)
    assert (tmp_path / "a.set-aside-2" / "more.txt").read_text() == "mine too"


def test_another_slides_result_is_not_replaced(tmp_path: Path) -> None:
    folder = publish_folder(tmp_path / "a", SPEC, write_result).folder
    before = snapshot(folder)
    other = SPEC.model_copy(update={"name": "a.ndpi", "source": "77"})
    with pytest.raises(StoreError, match=r"holds a result of 'a\.svs'.* not of 'a\.ndpi'"):
        publish_folder(folder, other, write_result)
    assert snapshot(folder) == before


def test_failure_publishes_nothing_and_keeps_what_was(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    folder = store.get_or_make(SPEC, write_result, name="a").folder
    before = snapshot(folder)

    def fail(partial: Path) -> None:
        write_result(partial)
        raise ValueError("corrupt slide")

    changed = SPEC.model_copy(update={"source": "42"})
    with pytest.raises(ValueError, match="corrupt slide"):
        store.get_or_make(changed, fail, name="a")
    with pytest.raises(ValueError, match="corrupt slide"):
        store.get_or_make(changed, fail, name="b")
    assert snapshot(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".medvision", "a"]
    assert list((tmp_path / ".medvision" / "partial").iterdir()) == []


def test_scratch_outlives_failure_and_goes_with_success(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)

    def fail(_: Path) -> None:
        (store.scratch(SPEC) / "progress").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make(SPEC, fail, name="a")
    assert (store.scratch(SPEC) / "progress").read_text() == "half"
    store.get_or_make(SPEC, write_result, name="a")
    assert list((tmp_path / ".medvision" / "scratch").iterdir()) == []


def test_publishing_removes_what_earlier_code_left_in_scratch(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    earlier = SPEC.model_copy(update={"code": "0" * 64})
    (store.scratch(earlier, "a") / "progress").write_text("half")
    (store.scratch(SPEC, name="a") / "progress").write_text("half")
    (store.scratch(earlier, "b") / "progress").write_text("of another entry")
    store.get_or_make(SPEC, write_result, name="a")
    (left,) = (tmp_path / ".medvision" / "scratch").iterdir()
    assert left == store.scratch(earlier, "b")

    (store.scratch(earlier, "a") / "progress").write_text("half")
    assert not store.get_or_make(SPEC, write_result, name="a").made
    assert (store.scratch(earlier, "a") / "progress").read_text() == "half", (
        "an entry that was only found does not end other work on it"
    )


def test_the_result_of_another_source_is_kept_beside(tmp_path: Path) -> None:
    first = publish_folder(tmp_path / "a", SPEC, write_result).folder
    before = snapshot(first)
    other = SPEC.model_copy(update={"source": "77"})
    assert publish_folder(tmp_path / "a", other, write_result).made
    assert snapshot(tmp_path / "a.set-aside-1") == before
    assert verify(tmp_path / "a") == verify(tmp_path / "a.set-aside-1") == ()

    recoded = other.model_copy(update={"code": "0" * 64})
    assert publish_folder(tmp_path / "a", recoded, write_result).made
    assert sorted(p.name for p in tmp_path.iterdir()) == [".medvision", "a", "a.set-aside-1"]


def test_rewriting_records_the_new_report_and_guards_the_rest(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        write_result(folder)
        (folder / "report.html").write_text("first")

    store = ResultStore(tmp_path)
    folder = store.get_or_make(SPEC, make, name="a", of_run=["report.html"]).folder
    with store.rewriting("a", ["report.html"]) as inside:
        (inside / "report.html").write_text("second")
    assert verify(folder) == ()
    assert not store.get_or_make(SPEC, make, name="a").made

    (folder / "report.html").unlink()
    with store.rewriting("a", ["report.html"]) as inside:
        (inside / "report.html").write_text("a lost one")
    assert verify(folder) == ()

    with (
        pytest.raises(StoreError, match=r"result\.json was altered"),
        store.rewriting("a", ["report.html"]) as inside,
    ):
        (inside / "result.json").write_text("forged")
    with pytest.raises(StoreError, match="not a whole result"), store.rewriting("a", ["report.html"]):
        pytest.fail("a damaged entry must not be opened for rewriting")


def test_links_are_refused_unless_asked_for(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = tmp_path / "out"
    root.mkdir()
    (root / "a").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="symbolic link"):
        ResultStore(root).get_or_make(SPEC, write_result, name="a")
    assert list(elsewhere.iterdir()) == []
    ResultStore(root, follow_symlinks=True).get_or_make(SPEC, write_result, name="a")
    assert verify(elsewhere) == ()

    control = tmp_path / "out2"
    control.mkdir()
    (control / ".medvision").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="symbolic link"):
        ResultStore(control).get_or_make(SPEC, write_result, name="a")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../a", "/etc", ".medvision", "a\0"])
def test_names_cannot_leave_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        ResultStore(tmp_path).folder(name)


def test_a_link_inside_a_result_counts_as_tampering(tmp_path: Path) -> None:
    folder = publish_folder(tmp_path / "a", SPEC, write_result).folder
    copy = tmp_path / "copy.json"
    copy.write_bytes((folder / "result.json").read_bytes())
    (folder / "result.json").unlink()
    (folder / "result.json").symlink_to(copy)
    assert verify(folder)


def limited(root: Path, size: int) -> None:
    """Publish under a limit on the size of a file, which fails writes as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        ResultStore(root).get_or_make(SPEC.model_copy(update={"source": "new"}), write_result, name="a")
    except StoreError as error:
        os._exit(7 if "could not be written" in str(error) else 8)
    os._exit(0)


@pytest.mark.parametrize("size", [5, 2000, 4100])
def test_no_room_is_a_store_error_and_earlier_results_stay(tmp_path: Path, size: int) -> None:
    folder = publish_folder(tmp_path / "a", SPEC, write_result).folder
    before = snapshot(folder)
    child = multiprocessing.get_context("fork").Process(target=limited, args=(tmp_path, size))
    child.start()
    child.join(30)
    written = size > 4000
    assert child.exitcode == (0 if written else 7)
    assert (snapshot(folder) == before) is not written
    assert verify(folder) == ()
    assert list((tmp_path / ".medvision" / "partial").iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from medvision.store import ResultSpec, ResultStore

def make(folder):
    for number in range(30):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 20000)

store = ResultStore(Path(sys.argv[1]))
print("ready", flush=True)
for source in range(10_000):
    store.get_or_make(ResultSpec(kind="k", name="a", source="0", model=str(source % 2)), make, name="a")
"""


def test_killed_at_any_moment_leaves_whole_results_only(tmp_path: Path) -> None:
    pick = random.Random(3)
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(pick.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
        assert {p.name for p in tmp_path.iterdir()} <= {".medvision", "a"}
        if (tmp_path / "a").exists():
            assert verify(tmp_path / "a") == ()

    store = ResultStore(tmp_path)
    store.clean()
    assert list((tmp_path / ".medvision" / "partial").iterdir()) == []
    last = SPEC.model_copy(update={"name": "a", "kind": "k", "source": "0"})
    store.get_or_make(last, write_result, name="a")
    assert sorted(snapshot(tmp_path / "a")) == [
        "crops/1.png",
        "manifest-run.json",
        "manifest.json",
        "result.json",
    ]


def test_clean_leaves_alone_what_is_being_made(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)

    def make(folder: Path) -> None:
        assert ResultStore(tmp_path).clean() == []
        assert folder.is_dir()
        write_result(folder)

    store.get_or_make(SPEC, make, name="a")
    left = tmp_path / ".medvision" / "partial" / "dead~0123abcd"
    left.mkdir()
    assert store.clean() == [left]


RACER = """
import sys, time
from pathlib import Path
from medvision.store import ResultSpec, ResultStore

def make(folder):
    with (Path(sys.argv[1]) / "makers").open("a") as stream:
        stream.write("one\\n")
    time.sleep(0.3)
    (folder / "result.json").write_text("1")

spec = ResultSpec(kind="k", name="a", source="0", model="")
print(ResultStore(Path(sys.argv[1])).get_or_make(spec, make, name="a").made)
"""


def test_of_runs_at_once_one_makes_and_the_others_find(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
    assert said == ["False", "False", "True"]
    assert (tmp_path / "makers").read_text() == "one\n"


def test_waiting_ends_with_an_error_that_names_the_result(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        with pytest.raises(StoreError, match=r"/a is being written by another process"):
            ResultStore(tmp_path, wait_s=0).get_or_make(SPEC, write_result, name="a")
        write_result(folder)

    assert ResultStore(tmp_path).get_or_make(SPEC, make, name="a").made
