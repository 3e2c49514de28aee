"""Points against points: evalutils' rule by brute force and on its own data, and faulty files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.evaluations.points import evaluate


def plain_counts(predictions, reference, radius):
    """True positives by the rule's words: each point of the reference, in order, takes its nearest free prediction."""
    free, found = set(range(len(predictions))), 0
    for target in reference:
        distances = {i: float(np.linalg.norm(predictions[i] - target)) for i in free}
        nearest = min((i for i in distances if distances[i] <= radius), key=distances.get, default=None)
        if nearest is not None:
            free.remove(nearest)
            found += 1
    return found, len(free), len(reference) - found


def write(path, points, head="x,y"):
    path.write_text("\n".join([head, *(",".join(map(str, p)) for p in points)]) + "\n")
    return path


@pytest.mark.parametrize("axes", [2, 3])
def test_counts_equal_the_words_of_the_rule(tmp_path, axes):
    random = np.random.default_rng(axes)
    nearest_differs = 0
    for _ in range(25):
        said, known = random.uniform(0, 4, (random.integers(0, 14), axes)), random.uniform(0, 4, (9, axes))
        head = "x,y,z"[: 2 * axes - 1]
        files = write(tmp_path / "said.csv", said, head), write(tmp_path / "known.csv", known, head)
        got = evaluate(*files, radius=1.3)
        assert got.counts == plain_counts(said, known, 1.3)
        nearest_differs += evaluate(*files, radius=1.3, matching="nearest").counts != got.counts
    assert nearest_differs


def test_images_are_matched_apart_and_scores_may_be_cut(tmp_path):
    said = write(
        tmp_path / "said.csv", [(0, 0, "a", 0.9), (5, 5, "a", 0.5), (0, 0, "b", 0.8)], "x,y,image,score"
    )
    known = write(tmp_path / "known.csv", [(0, 0, "a"), (0.5, 0, "a"), (9, 9, "c")], "x,y,image")
    got = evaluate(said, known)
    assert got.counts == (1, 2, 2)
    assert [image.image for image in got.images] == ["a", "b", "c"]
    assert "1 images have predictions and no reference" in got.notes[0]
    assert evaluate(said, known, threshold=0.5).counts == (1, 1, 2)  # above, not at
    assert got.f1 == pytest.approx(2 * got.precision * got.recall / (got.precision + got.recall))
    nothing = evaluate(write(tmp_path / "none.csv", []), write(tmp_path / "no.csv", []))
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("x\n1\n", {}, "has no column y"),
        ("x,y\n1,b\n", {}, "line 2: y 'b'"),
        ("x,y\n1,nan\n", {}, "line 2: y 'nan'"),
        ("x,y,z\n1,2,3\n", {}, "has the axes xyz"),
        ("x,y\n1,2\n", {"threshold": 0.5}, "has no column score"),
        ("x,y\n1,2\n", {"radius": 0}, "a radius of 0"),
    ],
)
def test_faulty_files_are_named(tmp_path, text, options, message):
    path = tmp_path / "said.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        evaluate(path, write(tmp_path / "known.csv", [(1, 2)]), **options)


@pytest.mark.shared
def test_evalutils_own_points(shared: Path, tmp_path, capfd):
    folder = shared / "volumes" / "evalutils_points" / "points"
    files = ["--predictions", str(folder / "predictions.csv"), "--reference", str(folder / "reference.csv")]
    assert run(["evaluate", "points", *files, "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "points.json").read_text())
    assert [data[f"{kind}s"] for kind in ("true_positive", "false_positive", "false_negative")] == [
        13,
        1452,
        551,
    ]
    assert "1,452" in capfd.readouterr().out
    assert evaluate(folder / "reference.csv", folder / "reference.csv").counts == (564, 0, 0)
