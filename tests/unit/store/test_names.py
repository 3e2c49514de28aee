"""Names of files in an output folder: kept from run to run, and apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvision.core.digest import digest_file
from medvision.core.errors import StoreError
from medvision.store.manifest import ResultSpec
from medvision.store.names import Named, claim_names, enter_names, names_in, told_apart
from medvision.store.store import ResultStore


def files(tmp_path: Path, *names: str) -> list[Path]:
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {path}")
    return paths


def result_of(out: Path, one: Named) -> None:
    spec = ResultSpec(kind="classify", name=one.called, source=digest_file(one.path), model="")
    ResultStore(out).get_or_make(spec, lambda made: None, name=one.name)


def test_files_of_one_name_are_told_apart_by_the_ends_of_their_paths() -> None:
    paths = [Path(name) for name in ("/1/a/x.png", "/2/a/x.png", "/1/b/x.png", "/1/y.png", "/1/y.png")]
    assert told_apart([path.name for path in paths], paths) == [
        "1/a/x.png",
        "2/a/x.png",
        "b/x.png",
        "y.png",
        "y.png",
    ]
    assert told_apart(["a/x.png", "x.png"], paths[1:3]) == ["a/x.png", "x.png"]
    assert told_apart(["x.png", "x.png"], [Path("/x.png"), Path("/d/x.png")]) == ["/x.png", "d/x.png"]


def test_a_later_run_keeps_apart_what_one_run_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second, third = files(tmp_path / "in", "a/x.png", "b/x.png", "c/x.jpg")
    assert names_in(out, [first]) == [Named(first, "x", "x.png")]
    assert not out.exists(), "only claiming writes"
    (one,) = claim_names(out, [first])
    (two,) = claim_names(out, [second])
    (three,) = claim_names(out, [third])
    assert one == Named(first, "x", "x.png")
    assert two.name.startswith("x-") and two.called == "b/x.png"
    assert three.name.startswith("x-") and three.name != two.name
    assert three.called == "x.jpg", "that one is free"
    assert claim_names(out, [third, first, second]) == [three, one, two], "each has its own for good"
    assert names_in(out, [second, second]) == [two, two]


def test_names_of_one_run_stay_when_one_file_comes_alone(tmp_path: Path) -> None:
    both = files(tmp_path, "a/x.png", "b/x.png")
    one, two = claim_names(tmp_path / "out", both)
    assert {one.called, two.called} == {"a/x.png", "b/x.png"} and one.name != two.name
    assert claim_names(tmp_path / "out", both[1:]) == [two]


def test_a_file_that_was_moved_has_the_name_of_its_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (path,) = files(tmp_path / "in", "a/x.png")
    (one,) = claim_names(out, [path])
    result_of(out, one)
    moved = tmp_path / "elsewhere" / "x.png"
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    assert claim_names(out, [moved]) == [Named(moved, one.name, one.called)]
    both = claim_names(out, [path, moved])
    assert both[0] == one and both[1].name != one.name, "two files of one run are two"
    moved.write_text("another")
    assert claim_names(out, [moved]) == [both[1]]
    path.write_text("changed")
    assert claim_names(out, [path]) == [one], "a file that was changed is the same file"


def test_names_that_were_given_belong_to_who_has_them_last(tmp_path: Path) -> None:
    first, second = files(tmp_path, "a/x.png", "b/x.png")
    enter_names(tmp_path / "out", [Named(first, "x", "x.png")])
    enter_names(tmp_path / "out", [Named(second, "x", "x.png")])
    assert claim_names(tmp_path / "out", [second]) == [Named(second, "x", "x.png")]
    assert claim_names(tmp_path / "out", [first])[0].name != "x"


def test_names_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (path,) = files(tmp_path, "a/x.png")
    claim_names(tmp_path / "out", [path])
    (book,) = tmp_path.glob("out/.medvision/names.json")
    book.write_text("{")
    with pytest.raises(StoreError, match=r"names\.json: cannot be read"):
        claim_names(tmp_path / "out", [path])
