"""LUNA16 from its files to page: figures against a plain version, folds, and what faulty files are told."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.evaluations.luna16 import PUBLISHED, evaluate
from medvision.evaluations.luna16_page import describe
from medvision.evaluations.page import write_page
from medvision.store.luna16_files import read_candidates, read_folds, read_series

UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.1002252872223656636786668368{:02d}"


@dataclass(frozen=True, eq=False)
class Made:
    """A folder of the five files, and what is in them."""

    folder: Path
    series: list[str]
    nodules: list[tuple]
    excluded: list[tuple]
    candidates: list[tuple]

    def paths(self, **others):
        names = ("candidates", "annotations", "excluded", "seriesuids")
        return {name: others.get(name, self.folder / f"{name}.csv") for name in names}


def write(path, head, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *rows] if head else rows)
    return path


AXES = ("seriesuid", "coordX", "coordY", "coordZ")


@pytest.fixture
def made(tmp_path):
    """16 scans, some without nodule or candidate; half of the coordinates are negative, as in LUNA16's files."""
    random = np.random.default_rng(6)
    series = [UID.format(i) for i in range(16)]
    nodules, excluded, candidates = [], [], []
    for i, uid in enumerate(series):
        for _ in range(i % 4):
            centre, diameter = random.uniform(-150, 150, 3), random.uniform(3, 20)
            nodules.append((uid, *centre, diameter))
            for _ in range(random.integers(0, 3)):
                candidates.append((uid, *(centre + random.normal(0, diameter / 5, 3)), random.beta(4, 2)))
        for _ in range(3):
            centre = random.uniform(-150, 150, 3)
            excluded.append((uid, *centre, random.choice([-1, 4.5])))
            candidates.append((uid, *(centre + random.normal(0, 1, 3)), random.random()))
        for _ in range(random.integers(0, 12) if i != 5 else 0):
            candidates.append((uid, *random.uniform(-150, 150, 3), random.beta(2, 4)))
    candidates = [c for c in candidates if c[0] != series[5]]
    write(tmp_path / "candidates.csv", (*AXES, "probability"), candidates)
    write(tmp_path / "annotations.csv", (*AXES, "diameter_mm"), nodules)
    write(tmp_path / "excluded.csv", (*AXES, "diameter_mm"), excluded)
    write(tmp_path / "seriesuids.csv", None, [(uid,) for uid in series])
    return Made(tmp_path, series, nodules, excluded, candidates)


def plain_sensitivities(made, rates):
    """Sensitivity at each rate, by counting down the candidates; false positives are rounded as the script does."""
    events, nodules = [], 0
    tables = [defaultdict(list) for _ in range(3)]
    for table, rows in zip(tables, (made.nodules, made.excluded, made.candidates), strict=True):
        for row in rows:
            table[row[0]].append(row)
    for uid in made.series:
        known, irrelevant, mine = (table[uid] for table in tables)
        used = set()
        for _, x, y, z, diameter in known:
            nodules += 1
            hit = [
                i
                for i, c in enumerate(mine)
                if (c[1] - x) ** 2 + (c[2] - y) ** 2 + (c[3] - z) ** 2 < (diameter / 2) ** 2
            ]
            used.update(hit)
            if hit:
                events.append((max(mine[i][4] for i in hit), 1))
        for i, (_, x, y, z, p) in enumerate(mine):
            near = [
                (e[1] - x) ** 2 + (e[2] - y) ** 2 + (e[3] - z) ** 2 < (5.0 if e[4] < 0 else e[4] / 2) ** 2
                for e in irrelevant
            ]
            if i not in used and not any(near):
                events.append((p, 0))
    events.sort(reverse=True)  # probabilities are all different here
    fps = np.concatenate([[0], np.cumsum([1 - hit for _, hit in events])])
    fps = fps / fps[-1] * fps[-1] / len(made.series)
    found = np.concatenate([[0], np.cumsum([hit for _, hit in events])]) / nodules
    return np.interp(rates, fps, found), nodules, sum(hit for _, hit in events)


def test_figures_equal_counting(made):
    got = evaluate(**made.paths(), resamples=40)
    expected, nodules, found = plain_sensitivities(made, got.froc.rates)
    np.testing.assert_allclose(got.froc.sensitivities, expected, atol=1e-12)
    assert (got.froc.lesions, got.found, len(got.nodules)) == (nodules, found, nodules)
    assert got.froc.interval[0] <= got.froc.score <= got.froc.interval[1]
    assert sum(scan.candidates for scan in got.scans) == len(made.candidates)
    assert sum(n.probability is not None for n in got.nodules) == found
    assert any("1 of 16 scans have no candidate" in note for note in got.notes)
    assert evaluate(**made.paths(), resamples=40).froc.intervals == got.froc.intervals


def test_classes_of_diameter_hold_all_nodules_once(made):
    got = evaluate(**made.paths(), diameters_mm=(5, 10), resamples=0)
    assert [part.name for part in got.diameters] == ["under 5 mm", "5 to under 10 mm", "10 mm and over"]
    sizes = np.array([n[4] for n in made.nodules])
    assert [part.nodules for part in got.diameters] == np.histogram(sizes, [0, 5, 10, 99])[0].tolist()
    weighted = sum(part.nodules * np.array(part.sensitivities) for part in got.diameters if part.nodules)
    np.testing.assert_allclose(weighted / len(sizes), got.froc.sensitivities, atol=1 / len(sizes))
    empty = evaluate(**made.paths(), diameters_mm=(2,), resamples=0).diameters[0]
    assert (empty.nodules, empty.sensitivities, empty.score) == (0, None, None)
    with pytest.raises(UsageError, match="limits of diameters 8 6"):
        evaluate(**made.paths(), diameters_mm=(8, 6))


def test_folds_are_pooled_and_shown_apart(made, tmp_path):
    fold = {uid: str(i % 4) for i, uid in enumerate(made.series)}
    table = write(tmp_path / "folds.csv", ("seriesuid", "fold"), fold.items())
    whole = evaluate(**made.paths(), resamples=0)
    pooled = tmp_path / "per-fold"
    pooled.mkdir()
    for name in "0123":
        rows = [c for c in made.candidates if fold[c[0]] == name]
        write(pooled / f"fold{name}.csv", (*AXES, "probability"), rows)
    got = evaluate(**made.paths(candidates=pooled), folds=table, resamples=0)
    assert got.froc.sensitivities == whole.froc.sensitivities
    assert whole.folds == ()
    assert [part.name for part in got.folds] == list("0123")
    assert sum(part.nodules for part in got.folds) == len(made.nodules)
    alone = made.folder / "alone.csv"
    write(alone, None, [(uid,) for uid in made.series if fold[uid] == "3"])
    by_itself = evaluate(**made.paths(seriesuids=alone), resamples=0)
    assert got.folds[3].score == by_itself.froc.score
    assert got.folds[0].score is None  # every fourth scan has no nodule
    write(pooled / "again.csv", (*AXES, "probability"), made.candidates[:1])
    with pytest.raises(UsageError, match=r"are in again\.csv and in fold0\.csv; a scan belongs to one fold"):
        read_candidates(pooled, made.series)


def test_folds_of_luna16_s_own_folders(made, tmp_path):
    for i, uid in enumerate(made.series):
        scan = tmp_path / "data" / f"subset{i % 10}" / f"{uid}.mhd"
        scan.parent.mkdir(parents=True, exist_ok=True)
        scan.touch()
        scan.with_name(f"{uid}.raw").touch()
    got = read_folds(tmp_path / "data", made.series)
    assert got == {uid: f"subset{i % 10}" for i, uid in enumerate(made.series)}
    with pytest.raises(UsageError, match=r"has no fold for 9\.9"):
        read_folds(tmp_path / "data", [*made.series, "9.9"])
    (tmp_path / "data" / "subset7" / made.series[0]).mkdir()
    with pytest.raises(UsageError, match="is in two folds, subset0 and subset7"):
        read_folds(tmp_path / "data", made.series)


def test_more_than_100_candidates_of_a_scan(made):
    uid = made.series[0]  # without a nodule
    many = [(uid, 1000.0 + i, 0, 0, 0.99 + i / 100_000) for i in range(130)]
    before = evaluate(**made.paths(), resamples=0)
    path = write(made.folder / "many.csv", (*AXES, "probability"), made.candidates + many)
    scan = evaluate(**made.paths(candidates=path), resamples=0).scans[0]
    assert (scan.candidates, scan.counted, scan.false_positives) == (
        before.scans[0].candidates + 130,
        100,
        100,
    )
    tied = [(uid, 1000.0 + i, 0, 0, 0.999) for i in range(130)]
    path = write(made.folder / "tied.csv", (*AXES, "probability"), made.candidates + tied)
    got = evaluate(**made.paths(candidates=path), resamples=0)
    assert got.scans[0].counted == 0
    assert any("fewer than 100 count" in note for note in got.notes)


def test_what_the_official_script_passes_over_is_noted(made):
    rows = [*made.candidates, made.candidates[0], ("1.2.3", 0, 0, 0, 0.5)]
    extra = write(made.folder / "extra.csv", (*AXES, "probability"), rows)
    got = evaluate(**made.paths(candidates=extra), resamples=0)
    assert any(f"1 of {len(rows)} rows are of scans that are not listed" in note for note in got.notes)
    assert any("1 candidates come more than once; each counts" in note for note in got.notes)
    head = write(made.folder / "head.csv", ("seriesuid",), [(uid,) for uid in made.series])
    series, notes = read_series(head)
    assert list(series) == made.series
    assert "header" in notes[0]
    # without a column of diameters, or with empty cells, excluded findings have 10 mm
    bare = write(made.folder / "bare.csv", AXES, [e[:4] for e in made.excluded])
    blank = write(made.folder / "blank.csv", (*AXES, "diameter_mm"), [(*e[:4], "") for e in made.excluded])
    ten = write(made.folder / "ten.csv", (*AXES, "diameter_mm"), [(*e[:4], 10) for e in made.excluded])
    curves = [evaluate(**made.paths(excluded=p), resamples=0).froc.sensitivities for p in (bare, blank, ten)]
    assert curves[0] == curves[1] == curves[2]


def test_nothing_found_and_nothing_false(made):
    none = write(made.folder / "none.csv", (*AXES, "probability"), [])
    got = evaluate(**made.paths(candidates=none), resamples=20)
    assert got.froc.score == 0
    assert any("the official script gives no figures" in note for note in got.notes)
    perfect = write(
        made.folder / "perfect.csv", (*AXES, "probability"), [(*n[:4], 0.5) for n in made.nodules]
    )
    got = evaluate(**made.paths(candidates=perfect), resamples=20)
    assert (got.froc.score, got.froc.interval) == (1, (1, 1))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("candidates", "seriesuid,coordX,coordY,coordZ\n", "has no column probability"),
        ("candidates", "seriesuid,coordX,coordY,coordZ,probability\nU,1,2,x,0.5\n", "line 2: coordz 'x'"),
        (
            "candidates",
            "seriesuid,coordX,coordY,coordZ,probability\nU,1,2,3,nan\n",
            "line 2: probability 'nan'",
        ),
        ("candidates", "seriesuid,coordX,coordY,coordZ,probability\nU,1,2,3,inf\n", "line 2: .*not finite"),
        (
            "candidates",
            "seriesuid,coordX,coordY,coordZ,probability\nU,1,2,3\n",
            "line 2: 4 cells for 5 columns",
        ),
        (
            "candidates",
            "seriesuid,coordX,coordY,coordZ,probability\n1.2,1,2,3,1\n",
            "none of its 1 candidates",
        ),
        ("candidates", "seriesuid,coordX,coordY,coordZ,probability\n1.3E+58,1,2,3,1\n", "spreadsheets"),
        ("candidates", "seriesuid,coordX,coordY,coordZ,probability\n,1,2,3,1\n", "line 2: no seriesuid"),
        ("annotations", "seriesuid,coordX,coordY,coordZ\nU,1,2,3\n", "has no column diameter_mm"),
        ("annotations", "seriesuid,coordX,coordY,coordZ,diameter_mm\nU,1,2,3,\n", "diameter_mm ''"),
        ("annotations", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3,4\n", "needs a lesion"),
        ("excluded", "seriesuid,coordX,coordY\nU,1,2\n", "has no column coordz"),
        ("seriesuids", "", "names no scan"),
        ("seriesuids", "U\nV\nU\n", "line 3: .* is already in line 1"),
        ("seriesuids", "1.36E+58\n", "rounded number"),
    ],
)
def test_faulty_files_name_file_and_line(made, name, text, message):
    path = made.folder / "faulty.csv"
    path.write_text(text.replace("U", made.series[1]))
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(**made.paths(**{name: path}), resamples=0)
    assert "needs a lesion" in message or "faulty.csv" in str(caught.value)


def test_files_and_command(made, tmp_path, capfd):
    page = describe(evaluate(**made.paths(), resamples=30))
    first, second = ({n: p.read_bytes() for n, p in write_page(page, tmp_path / out).items()} for out in "ab")
    assert first == second
    data = json.loads(first["luna16.json"])
    assert data["cpm"] == pytest.approx(np.mean([at["sensitivity"] for at in data["at"]]))
    counts = data["candidates"]
    assert counts["given"] == len(made.candidates)
    nodules = list(csv.DictReader(first["luna16-nodules.csv"].decode().splitlines()))
    assert Counter(row["seriesuid"] for row in nodules) == Counter(n[0] for n in made.nodules)
    assert len(first["luna16-draws.csv"].splitlines()) == 10_001
    assert "Research use only" in first["luna16.md"].decode()
    assert (
        "| Ding et al. 2017, Faster R-CNN and 3-D CNN | 0.891 | 0.748 | 0.853 |"
        in first["luna16.md"].decode()
    )
    folds = write(
        tmp_path / "folds.csv", ("seriesuid", "fold"), [(uid, i % 2) for i, uid in enumerate(made.series)]
    )
    options = [part for name, path in made.paths().items() for part in (f"--{name}", str(path))]
    out = tmp_path / "out"
    more = [
        "--folds",
        str(folds),
        "--diameters",
        "6",
        "--diameters",
        "12",
        "--resamples",
        "10",
        "--out",
        str(out),
    ]
    assert run(["evaluate", "luna16", *options, *more]) == 0
    page = (out / "luna16.html").read_text()
    assert "6 to under 12 mm" in page and "By fold" in page
    made.paths()["candidates"].write_text("seriesuid\n")
    assert run(["evaluate", "luna16", *options, "--out", str(out)]) != 0
    assert "has no column coordx, coordy, coordz, probability" in capfd.readouterr().err


def test_published_figures_are_those_of_the_papers():
    ding = PUBLISHED[0].figures
    assert np.mean([value for name, value in ding.items() if name != "cpm"]) == pytest.approx(
        ding["cpm"], abs=6e-4
    )


@pytest.mark.shared
def test_the_challenge_s_own_files(shared: Path, tmp_path):
    """888 scans and 1,186 nodules; annotations given as candidates find all of them, and no false positive."""
    folder = shared / "volumes" / "luna16_official_csv" / "annotations"
    files = {
        "annotations": folder / "annotations.csv",
        "excluded": folder / "annotations_excluded.csv",
        "seriesuids": folder / "seriesuids.csv",
    }
    with files["annotations"].open() as stream:
        nodules = [tuple(row.values())[:4] for row in csv.DictReader(stream)]
    perfect = write(tmp_path / "perfect.csv", (*AXES, "probability"), [(*n, 1) for n in nodules])
    got = evaluate(perfect, **files, resamples=10)
    assert (len(got.scans), got.froc.lesions, got.found, got.froc.score) == (888, 1186, 1186, 1)
    assert sum(scan.false_positives for scan in got.scans) == 0
    # Every excluded finding as a candidate of low probability: none of them is a false positive.
    with files["excluded"].open() as stream:
        others = [tuple(row.values())[:4] for row in csv.DictReader(stream)]
    both = [*((*n, 1) for n in nodules), *((*o, 0.1) for o in others)]
    got = evaluate(write(tmp_path / "both.csv", (*AXES, "probability"), both), **files, resamples=0)
    assert len(others) == 35_192
    assert (got.froc.score, sum(scan.false_positives for scan in got.scans)) == (1, 0)


@pytest.mark.shared
def test_figures_on_the_challenge_s_own_files_equal_counting(shared: Path, tmp_path):
    """Candidates drawn around the real annotations and excluded findings, and anywhere, of 888 scans."""
    folder = shared / "volumes" / "luna16_official_csv" / "annotations"

    def rows(name):
        with (folder / name).open() as stream:
            return [(uid, *map(float, rest)) for uid, *rest in list(csv.reader(stream))[1:]]

    series = (folder / "seriesuids.csv").read_text().split()
    nodules, excluded = rows("annotations.csv"), rows("annotations_excluded.csv")
    random = np.random.default_rng(1)
    near = [n for n in nodules if random.random() < 0.9]
    candidates = [(n[0], *(np.array(n[1:4]) + random.normal(0, 1, 3)), random.beta(5, 2)) for n in near]
    candidates += [(*e[:4], random.beta(1, 4)) for e in excluded[::5]]
    candidates += [
        (uid, *random.uniform(-200, 200, 3), random.beta(1, 5)) for uid in series for _ in range(12)
    ]
    made = Made(tmp_path, series, nodules, excluded, candidates)
    path = write(tmp_path / "candidates.csv", (*AXES, "probability"), candidates)
    files = (folder / "annotations.csv", folder / "annotations_excluded.csv", folder / "seriesuids.csv")
    got = evaluate(path, *files, resamples=0)
    expected, total, found = plain_sensitivities(made, got.froc.rates)
    np.testing.assert_allclose(got.froc.sensitivities, expected, atol=1e-12)
    assert (got.froc.lesions, got.found) == (total, found)
    assert 0.5 < got.froc.score < 0.99
