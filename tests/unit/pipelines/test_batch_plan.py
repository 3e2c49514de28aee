"""Which slides a batch takes, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medvision.core.errors import UsageError
from medvision.pipelines.batch_config import BatchOptions, BatchRequest, read_batch_config
from medvision.pipelines.batch_plan import plan_batch, read_list, take_names
from medvision.store.names import names_in
from medvision.store.pseudonyms import write_key
from medvision.store.records import SlideOutcome


def request(slides: Path, out: Path | None = None, **options: object) -> BatchRequest:
    out = slides.parent / "out" if out is None else out
    return BatchRequest(slides=slides, out=out, options=BatchOptions.model_validate(options))


def test_a_folder_is_searched_but_for_results_and_hidden_files(tmp_path: Path) -> None:
    wanted = ["a.svs", "b/c.TIF", "b/deep/d.ndpi"]
    unwanted = [
        ".x.svs",
        ".hidden/e.svs",
        "notes.txt",
        "out/slide/heatmap.ome.tiff",
        "old/f/heatmap.ome.tiff",
    ]
    for name in (*wanted, *unwanted, "old/f/manifest.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    planned = plan_batch(request(tmp_path, tmp_path / "out"))
    assert [slide.path.relative_to(tmp_path).as_posix() for slide in planned] == wanted
    assert [slide.item_id for slide in planned] == ["a", "b__c", "b__deep__d"]
    assert [slide.name for slide in planned] == ["a", "b__c", "b__deep__d"]
    assert [slide.number for slide in planned] == [1, 2, 3]

    only = plan_batch(request(tmp_path, tmp_path / "out", pattern=("*.ndpi",)))
    assert [slide.item_id for slide in only] == ["b__deep__d"]
    with pytest.raises(UsageError, match=r"holds no file that matches \*\.bif"):
        plan_batch(request(tmp_path, pattern="*.bif"))


def test_a_manifest_names_its_slides_and_may_list_an_absent_one(tmp_path: Path) -> None:
    (tmp_path / "x.svs").touch()
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("slide_id,path,spacing\ncase.7,x.svs,0.25\ncase 8,absent.svs,\n")
    first, second = plan_batch(request(manifest))
    assert (first.item_id, first.name, first.spacing_um) == ("case.7", "case.7", 0.25)
    assert (second.item_id, second.name, second.path) == ("case 8", "case 8", tmp_path / "absent.svs")


def test_pseudonyms_hide_ids_and_repeat(tmp_path: Path) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("slide_id,path\nDoe Jane,doe.svs\nRoe Richard,roe.svs\n")
    key = write_key(tmp_path / "key")
    planned = plan_batch(request(manifest, pseudonym_key=key))
    assert [slide.shown for slide in planned] == [slide.name for slide in planned]
    assert len({slide.name for slide in planned}) == 2
    assert not any("Doe" in f"{slide.item_id}{slide.name}{slide.alias}" for slide in planned)
    assert planned == plan_batch(request(manifest, pseudonym_key=key))
    other = write_key(tmp_path / "other")
    assert planned[0].name != plan_batch(request(manifest, pseudonym_key=other))[0].name


@pytest.mark.parametrize("name", ["Doe Jane", "O'Brien", 'a "b" c', "x'y\"z"])
def test_with_pseudonyms_errors_do_not_repeat_what_may_name_a_patient(tmp_path: Path, name: str) -> None:
    manifest = tmp_path / "cohort.csv"
    cell = name.replace('"', '""')
    manifest.write_text(f'slide_id,path,spacing\n"{cell}",doe.svs,wide\n')
    with pytest.raises(UsageError, match="line 2") as caught:
        plan_batch(request(manifest, pseudonym_key=write_key(tmp_path / "key")))
    assert name not in str(caught.value) and repr(name)[1:-1] not in str(caught.value)
    assert "spacing … is no positive number" in str(caught.value)


def test_lists(tmp_path: Path) -> None:
    text = tmp_path / "list.txt"
    text.write_text("# cohort 7\n\n a.svs \n/data/b.svs\n")
    assert read_list(text) == [tmp_path / "a.svs", Path("/data/b.svs")]
    (tmp_path / "list.json").write_text('["new\\nline.svs"]')
    assert read_list(tmp_path / "list.json") == [tmp_path / "new\nline.svs"]
    for name, content in {"empty.txt": "# nothing\n", "bad.json": "{", "other.json": '{"a": 1}'}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=name):
            read_list(tmp_path / name)
    with pytest.raises(UsageError, match=r"absent\.txt: cannot be read \(No such file"):
        read_list(tmp_path / "absent.txt")
    (tmp_path / "nul.json").write_text('["a.svs", "b\\u0000.svs"]')
    with pytest.raises(UsageError, match=r"nul\.json: entry 2, 'b\\x00\.svs', is no path"):
        read_list(tmp_path / "nul.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"deep\.json is not a readable list"):
        read_list(tmp_path / "deep.json")


def test_slides_of_one_name_are_told_apart(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("a/x.svs\nb/x.svs\ny.svs\na/x.svs\n")
    first, second, third, again = plan_batch(request(listed))
    assert [slide.item_id for slide in (first, second, third, again)] == [
        "a/x.svs",
        "b/x.svs",
        "y.svs",
        "a/x.svs (2)",
    ]
    assert len({first.name, second.name, third.name}) == 3
    assert again.name == first.name, "a slide that is listed twice has one result"
    key = write_key(tmp_path / "key")
    assert len({slide.name for slide in plan_batch(request(listed, pseudonym_key=key))}) == 4


def test_a_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    slide = tmp_path / "slides" / os.fsdecode(b"Doe\xff.svs")
    slide.parent.mkdir()
    slide.touch()
    (planned,) = plan_batch(request(slide.parent))
    assert planned.item_id == "Doe\\udcff"
    assert planned.path == slide and planned.path.exists()
    outcome = SlideOutcome(slide=str(slide), name=planned.name, status="failed", reason=f"{slide}: bad")
    assert SlideOutcome.model_validate_json(outcome.model_dump_json()) == outcome
    assert outcome.reason.endswith("Doe\\udcff.svs: bad")


def test_what_is_given_comes_before_the_file(tmp_path: Path) -> None:
    config = tmp_path / "batch.yaml"
    config.write_text("threshold: 0.8\nstride: 64\nrunner: process\nworkers: 2\n")
    made = read_batch_config(Path("in"), Path("out"), config, {"threshold": 0.7})
    assert (made.analyze.threshold, made.analyze.stride, made.options.workers) == (0.7, 64, 2)
    config.write_text("treshold: 0.8\n")
    with pytest.raises(UsageError, match=r"batch\.yaml: treshold: no such field"):
        read_batch_config(Path("in"), Path("out"), config, {})
    with pytest.raises(UsageError, match="is for the dask runner"):
        read_batch_config(Path("in"), Path("out"), None, {"address": "tcp://node:8786"})


def test_files_of_one_name_are_kept_apart_from_batch_to_batch(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a/x.svs", "b/x.svs"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    planned = []
    for place in ("a", "b"):
        listed = tmp_path / f"{place}.txt"
        listed.write_text(f"{place}/x.svs\n")
        asked = request(listed, out)
        planned += take_names(plan_batch(asked), asked)
        assert plan_batch(asked) == planned[-1:], "the plan and the run agree"
    first, second = planned
    assert (first.item_id, first.name, first.called) == ("x.svs", "x", "x.svs")
    assert (second.item_id, second.called) == ("b/x.svs", "b/x.svs") and second.name != "x"
    # A folder gives names itself; a plain run knows them from then on.
    folder = request(tmp_path / "b", out)
    (item,) = take_names(plan_batch(folder), folder)
    assert (item.item_id, item.name, item.called) == ("x", "x", None)
    assert names_in(out, [tmp_path / "b" / "x.svs"])[0].name == "x"
