"""Tables of classified images: what is read, and every fault named with its file and line."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.evaluations.image_tasks import read_readers
from medvision.evaluations.images import read_cases

TRUTH = "image,label\na,cat\nb,dog\nc,cat\n"
SAID = "image,Cat,Dog\nc,0.2,0.8\na,0.9,0.1\nb,0.3,0.7\n"


@pytest.fixture
def files(tmp_path):
    def write(said=SAID, truth=TRUTH):
        (tmp_path / "said.csv").write_text(said)
        (tmp_path / "truth.csv").write_text(truth)
        return tmp_path / "said.csv", tmp_path / "truth.csv"

    return write


def test_images_are_joined_by_name(files):
    got = read_cases(*files())
    assert got.classes == ("Cat", "Dog")
    assert got.images == ("a", "b", "c")
    assert got.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(got.probabilities, [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    assert got.groups is None
    assert got.notes == ()


def test_groups_and_columns_not_used(files):
    got = read_cases(*files(truth="image,label,group,age\na,cat,p1,3\nb,dog,p2,4\nc,CAT,p1,3\n"))
    assert got.groups.tolist() == ["p1", "p2", "p1"]
    assert got.notes[0] == "columns of the truth not used: age"
    assert got.notes[1] == "2 groups are too few for an interval to say much"


def test_classes_in_the_order_wanted(files):
    got = read_cases(*files(), classes=("dog", "cat"))
    assert got.classes == ("dog", "cat")
    assert got.labels.tolist() == [1, 0, 1]
    np.testing.assert_allclose(got.probabilities[0], [0.1, 0.9])
    with pytest.raises(UsageError, match="the classes must be dog, fish; got Cat, Dog"):
        read_cases(*files(), classes=("dog", "fish"))


def test_one_column_of_two_classes(files):
    got = read_cases(*files("image,dog\na,0.1\nb,0.7\nc,0.8\n"))
    assert got.classes == ("cat", "dog")
    np.testing.assert_allclose(got.probabilities[1], [0.3, 0.7])
    got = read_cases(*files("image,probability\na,0.1\nb,0.7\nc,0.8\n", "image,label\na,0\nb,1\nc,0\n"))
    assert got.classes == ("0", "1")
    assert got.labels.tolist() == [0, 1, 0]
    with pytest.raises(UsageError, match=r"the only column .score. .* labels of truth\.csv are cat, dog"):
        read_cases(*files("image,score\na,0.1\nb,0.7\nc,0.8\n"))
    with pytest.raises(UsageError, match="but the classes are bird, dog"):
        read_cases(*files("image,cat\na,0.1\nb,0.7\nc,0.8\n"), classes=("dog", "bird"))


@pytest.mark.parametrize(
    ("said", "truth", "message"),
    [
        ("image,cat,dog\na,0.5,0.5\nc,1,0\n", TRUTH, r"said\.csv: lacks 1 of the images in truth\.csv: b"),
        (SAID + "d,0,1\n", TRUTH, r"truth\.csv: lacks 1 of the images in said\.csv: d"),
        (SAID + "a,0,1\n", TRUTH, r"said\.csv, line 5: image 'a' for the second time"),
        (SAID, TRUTH + "b,dog\n", r"truth\.csv, line 5: image 'b' for the second time"),
        (
            SAID,
            TRUTH.replace("dog", "wolf"),
            r"truth\.csv, line 3: label 'wolf' of image 'b' is no class of said",
        ),
        (SAID, TRUTH.replace("dog", ""), r"truth\.csv, line 3: no label of image 'b'"),
        (SAID, "image,label,group\na,cat,\n", r"truth\.csv, line 2: no group of image 'a'"),
        (SAID.replace("0.9", "nan"), TRUTH, r"said\.csv, line 3: cat 'nan' is no number in \[0, 1\]"),
        (SAID.replace("0.9", "1.9"), TRUTH, r"said\.csv, line 3: cat '1.9'"),
        (SAID.replace("0.9", ""), TRUTH, r"said\.csv, line 3: cat ''"),
        (
            SAID.replace("0.9", "0.4"),
            TRUTH,
            r"probabilities of 1 of 3 images do not sum to 1, such as 0.5 of 'a'",
        ),
        (SAID.replace("a,", ","), TRUTH, r"said\.csv, line 3: the image is not named"),
        (SAID.replace("image", "file"), TRUTH, r"said\.csv: has no column image; .* found: file, Cat, Dog"),
        ("image\na\n", TRUTH, r"said\.csv: has no column beside image"),
        ("image,Cat,cat\na,1,0\n", TRUTH, "a column is named twice"),
        ("", TRUTH, "holds a header and no row"),
        (SAID, "image,dx\na,cat\n", r"truth\.csv: has no column label"),
    ],
)
def test_faults_are_named(files, said, truth, message):
    with pytest.raises(UsageError, match=message):
        read_cases(*files(said, truth))


def test_rounded_probabilities_are_taken_as_they_are(files):
    got = read_cases(*files("image,cat,dog,cow\na,0.33,0.33,0.33\nb,0,1,0\nc,0.67,0.33,0.01\n"))
    np.testing.assert_allclose(got.probabilities.sum(axis=1), [0.99, 1, 1.01])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reader,sensitivity\nr,0.5\n", "has no column specificity, task"),
        (
            "reader,sensitivity,specificity,task\nr,1.5,0,x\n",
            "line 2: no task is called 'x'; known: one, two",
        ),
        ("reader,sensitivity,specificity,task\nr,1.5,0,one\n", "line 2: sensitivity '1.5' is no number"),
        ("reader,sensitivity,specificity,task\n,1,0,one\n", "line 2: the reader is not named"),
        ("reader,sensitivity,specificity,task\nr,1,0,one\nr,1,0,one\n", "line 3: reader 'r' for the second"),
    ],
)
def test_readers_that_are_malformed(tmp_path, text, message):
    path = tmp_path / "readers.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_readers(path, ("one", "two"))
    with pytest.raises(UsageError, match="no yes-or-no task"):
        read_readers(path, ())


def test_readers_of_several_tasks(tmp_path):
    path = tmp_path / "readers.csv"
    path.write_text("reader,sensitivity,specificity,task\nr,1,0.5,one\nr,0.2,0.9,two\ns,0.3,1,two\n")
    got = read_readers(path, ("one", "two"))
    assert [(r.name, r.sensitivity, r.specificity) for r in got["two"]] == [("r", 0.2, 0.9), ("s", 0.3, 1.0)]
    assert len(got["one"]) == 1
    assert read_readers(None, ("one",)) == {"one": ()}


def test_what_a_label_was_made_of_is_told_of_only_where_it_is_another(files):
    same = read_cases(*files(truth="image,label,finer\na,cat,cat\nb,dog,Dog\nc,CAT,cat\n"))
    assert same.notes == ()
    finer = read_cases(*files(truth="image,label,finer\na,cat,lion\nb,dog,dog\nc,cat,cat\n"))
    assert finer.notes == ("columns of the truth not used: finer",)
