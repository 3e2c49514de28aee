"""Safe names and atomic files."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvision.core.errors import StoreError, UsageError
from medvision.store.files import (
    MAX_NAME_BYTES,
    atomic_write,
    is_set_aside,
    make_output,
    safe_name,
    safe_names,
    set_aside_path,
)


@pytest.mark.parametrize(
    ("slide", "name"),
    [
        ("/data/CMU-1-Small-Region.svs", "CMU-1-Small-Region"),
        ("TCGA-CR-7395-01A-01-TS1.44BE5A79.svs", "TCGA-CR-7395-01A-01-TS1.44BE5A79"),
        ("Präparat 7 (HE).ndpi", "Präparat 7 (HE)"),
        ("切片.tiff", "切片"),
    ],
)
def test_harmless_names_stay(slide: str, name: str) -> None:
    assert safe_name(slide) == safe_name(Path(slide)) == name


@pytest.mark.parametrize(
    "slide",
    [
        "a\nb.svs",
        "<script>alert(1)</script>.svs",
        "-rf.svs",
        "..svs",
        "...",
        "",
        "/",
        " .svs",
        "con.svs",
        "LPT1.x.svs",
        "index.html.svs",
        "run.json.svs",
        "x" * 300 + ".svs",
        "é" * 120 + ".svs",
        "a\u202eb.svs",
        "a\udcffb.svs",
        "$(reboot).svs",
        "a;b|c&d.svs",
        ".medvision.svs",
    ],
)
def test_hostile_names_are_cleaned_and_marked(slide: str) -> None:
    name = safe_name(slide)
    assert_safe(name)
    assert name[-9] == "-" and set(name[-8:]) <= set("0123456789abcdef")


def assert_safe(name: str) -> None:
    assert name and Path(name).name == name and name not in (".", "..")
    assert not name.startswith((".", "-", " ")) and not name.endswith((".", " "))
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert not any(unicodedata.category(c).startswith("C") for c in name)


@given(
    st.lists(st.text(min_size=1, max_size=200).filter(lambda t: "/" not in t and "\0" not in t), max_size=5)
)
def test_names_of_a_run_are_safe_distinct_and_independent_of_order(stems: list[str]) -> None:
    slides = [f"/in/{number % 2}/{stem}.svs" for number, stem in enumerate(stems)]
    names = safe_names(slides)
    for name in names:
        assert_safe(name)
    assert len({name.casefold() for name in names}) == len(set(slides))
    assert safe_names(slides[::-1]) == names[::-1]


def test_collisions_of_case_ending_and_folder_are_told_apart() -> None:
    slides = ["/1/a.svs", "/1/A.svs", "/1/a.ndpi", "/2/a.svs", "/1/b.svs", "/1/a.svs"]
    names = safe_names(slides)
    assert len({name.casefold() for name in names[:5]}) == 5
    assert names[0] == names[5]
    assert names[4] == "b"
    assert all(name.lower().startswith("a-") for name in names[:4])


def test_same_text_in_two_unicode_forms_gets_two_names() -> None:
    composed, decomposed = "é.svs", unicodedata.normalize("NFD", "é.svs")
    assert safe_name(composed) != safe_name(decomposed)


def test_atomic_write_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_atomic_write_does_not_follow_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"keep")
    link = tmp_path / "link"
    link.symlink_to(target)
    atomic_write(link, b"new")
    assert target.read_bytes() == b"keep"
    assert not link.is_symlink() and link.read_bytes() == b"new"


def test_atomic_write_failure_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent/f: could not be written: No such file"):
        atomic_write(tmp_path / "absent" / "f", b"x")


def test_an_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert make_output(out) == out
    assert make_output(out) == out
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("out", ["file", "file/x", "file/x/y", "dangling"])
def test_a_file_in_the_way_of_the_output_is_named(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError) as caught:
        make_output(tmp_path / out)
    assert str(tmp_path / out) in str(caught.value)
    assert f"{tmp_path / out.split('/')[0]} is there and is not a folder" in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    root = os.geteuid() == 0
    if root:  # whom no permission stops
        os.seteuid(65534)
    try:
        with pytest.raises(UsageError, match=r"out cannot be an output folder.*Permission denied"):
            make_output(out)
    finally:
        if root:
            os.seteuid(0)
    with pytest.raises(UsageError, match="cannot be written to"):
        make_output(Path("a\0b"))


def test_what_is_set_aside_has_a_name_of_its_own(tmp_path: Path) -> None:
    first = set_aside_path(tmp_path / "a")
    first.mkdir()
    assert [first.name, set_aside_path(tmp_path / "a").name] == ["a.set-aside-1", "a.set-aside-2"]
    assert is_set_aside(first)
    assert not any(is_set_aside(Path(name)) for name in ("a", "set-aside-1", "a.set-aside-", ".set-aside-1"))
