"""Safe names and atomic files."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvision.core.errors import StoreError
from medvision.store.files import MAX_NAME_BYTES, atomic_write, safe_name, safe_names


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
