"""Synthetic cohorts: planned from the configuration alone, drawn whole, continued where a run broke off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.annotations import read_annotations
from medvision.store.cohort import read_cohort
from medvision.synthetic import (
    CohortConfig,
    SlideRecipe,
    plan_cohort,
    read_cohort_config,
    render_block,
    write_cohort_slides,
)
from medvision.synthetic.stamps import library

CONFIGS = Path(__file__).parents[3] / "configs"
TINY = CohortConfig.model_validate(
    {
        "name": "tiny",
        "groups": [
            {"split": "train", "count": 2, "shape_px": [320, 384], "spacing_um": 2.0, "stains": ["plum"]},
            {
                "split": "test",
                "count": 1,
                "shape_px": [320, 384],
                "spacing_um": 2.0,
                "metastases": "micro",
                "mimicry": [0.5, 0.9],
            },
        ],
    }
)


def test_the_documented_cohort_is_what_it_says() -> None:
    planned = plan_cohort(read_cohort_config(CONFIGS / "cohort.yaml"))
    of = {split: [p for p in planned if p.split == split] for split in ("train", "test")}
    assert {split: len(slides) for split, slides in of.items()} == {"train": 24, "test": 16}
    assert {split: sum(p.label == "normal" for p in slides) for split, slides in of.items()} == {
        "train": 12,
        "test": 8,
    }
    assert len({p.patient for p in of["train"]}) == 12
    assert len({p.patient for p in of["test"]}) == 8
    assert len({p.recipe.seed for p in planned}) == 40
    stains = {split: {p.recipe.stain for p in slides} for split, slides in of.items()}
    assert stains["test"] - stains["train"] == {"russet"}
    for slides in of.values():
        assert {p.recipe.metastases for p in slides} == {"none", "itc", "micro", "macro"}
        assert {p.recipe.spacing_um for p in slides} == {0.25, 0.5}
        assert len({p.recipe.scanner for p in slides}) == 3
        assert any(p.recipe.artefacts for p in slides)


def test_the_smoke_cohort_is_small() -> None:
    planned = plan_cohort(read_cohort_config(CONFIGS / "cohort-smoke.yaml"))
    assert [p.split for p in planned].count("train") == 4
    assert [p.split for p in planned].count("test") == 3
    assert max(max(p.recipe.shape_px) for p in planned) < 1500


def test_a_cohort_is_written_and_continued(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    made = write_cohort_slides(TINY, tmp_path, 1, lambda one, done, of: seen.append((one.slide_id, done, of)))
    assert seen == [("train_001", 1, 3), ("train_002", 2, 3), ("test_001", 3, 3)]
    assert made == read_cohort(tmp_path / "cohort.csv")
    assert [(s.slide_id, s.label, s.patient, s.split, s.spacing_um) for s in made.slides] == [
        ("train_001", "normal", "train-patient-01", "train", 2.0),
        ("train_002", "normal", "train-patient-01", "train", 2.0),
        ("test_001", "tumor", "test-patient-01", "test", 2.0),
    ]
    (test,) = made.of("test")
    assert test.annotation is not None
    assert read_annotations(test.annotation)
    source = open_source(test.path)
    assert source.levels[0].shape == (320, 384)
    source.close()
    mask = open_source(tmp_path / "test" / "reference" / "test_001_mask.tif")
    classes = open_source(tmp_path / "test" / "reference" / "test_001_classes.tif")
    whole = Box((0, 0), (320, 384))
    found = classes.read(whole)[..., 0]
    assert classes.levels[0].shape == whole.shape  # the slide's own 2 µm
    assert set(np.unique(found)) == {1, 2}  # a slide smaller than a node has no glass
    assert np.array_equal(found == 2, mask.read(whole)[..., 0] == 1)
    for one in (mask, classes):
        one.close()

    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    (tmp_path / "train" / "slides" / "train_002.tif").unlink()
    seen.clear()
    write_cohort_slides(TINY, tmp_path, 1, lambda one, done, of: seen.append((one.slide_id, done, of)))
    assert seen == [("train_002", 3, 3)]
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()} == before

    changed = TINY.model_copy(update={"seed": 1})
    seen.clear()
    write_cohort_slides(changed, tmp_path, 1, lambda one, done, of: seen.append((one.slide_id, done, of)))
    assert len(seen) == 3
    assert len(json.loads((tmp_path / "cohort.json").read_text())) == 3


def test_several_processes_draw_the_same_bytes(tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 2)):
        write_cohort_slides(TINY, tmp_path / name, workers)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert other.read_bytes() == path.read_bytes(), path.name


def test_mimicry_changes_tumour_and_leaves_everything_else_as_it_was() -> None:
    box = Box((600, 600), (1100, 1100))
    plain = SlideRecipe(5, (1700, 1700), stain="plum", scanner="even")
    hard = SlideRecipe(5, (1700, 1700), stain="plum", scanner="even", mimicry=0.9)
    assert SlideRecipe(5, (1700, 1700), stain="plum", scanner="even", mimicry=0.0) == plain
    assert (render_block(plain, box) != render_block(hard, box)).mean() > 0.02
    easy, near = library(0.25, 1), library(0.25, 1, 0.9)
    for kind in ("lymphocyte", "plasma", "red"):
        assert [s.side for s in easy.stamps[kind]] == [s.side for s in near.stamps[kind]]
    # Tumour cells shrink and benign histiocytes grow: the two come closer.
    side = {name: sum(s.side for s in lib.stamps["tumour"]) for name, lib in (("e", easy), ("n", near))}
    assert side["n"] < 0.95 * side["e"]
    with pytest.raises(UsageError, match="mimicry"):
        SlideRecipe(5, (1700, 1700), mimicry=1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("stains: [pink]", "stain 'pink' unknown; known: plum"),
        ("artefacts: [[crack]]", "artefact 'crack' unknown; known: pen-black"),
        ("mimicry: [0.9, 0.1]", r"mimicry from 0\.9 to 0\.1 is no range"),
        ("colour: red", "groups.0.colour: no such field"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\ngroups:\n  - split: a\n    count: 1\n    shape_px: [64, 64]\n    {changes}\n")
    with pytest.raises(UsageError, match=message):
        read_cohort_config(path)


def test_the_command_refuses_before_drawing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\ngroups:\n  - {split: a, count: 1, shape_px: [640, 640], metastases: macro}\n")
    assert run(["synthesize", "cohort", "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "a macrometastasis (> 2 mm) does not fit" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
