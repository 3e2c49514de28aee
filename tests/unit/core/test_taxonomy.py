"""Taxonomies: the partition spelt out on a small tree, sums over descendants, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.core.taxonomy import Taxonomy, coarser, partition, read_taxonomy, sum_descendants

SKIN = Path(__file__).resolve().parents[3] / "configs" / "skin-taxonomy.yaml"
HAM10000 = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}
TREE = """
name: skin
about: A test.
tree:
  benign:
    nevus: [blue nevus, halo nevus, Spitz nevus]
    cyst:
  malignant:
    melanoma: {acral: , amelanotic: {nodular amelanotic: }}
    carcinoma:
"""


def written(tmp_path, text):
    path = tmp_path / "tree.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def tree(tmp_path):
    return read_taxonomy(written(tmp_path, TREE))


def test_the_tree_as_read(tree):
    assert (tree.root, tree.about) == ("skin", "A test.")
    assert tree.children["nevus"] == ("blue nevus", "halo nevus", "Spitz nevus")
    assert tree.path("acral") == ("skin", "malignant", "melanoma", "acral")
    assert list(tree.below("melanoma")) == ["melanoma", "acral", "amelanotic", "nodular amelanotic"]
    assert tree.level(1) == ("benign", "malignant")
    assert tree.level(3) == (
        "blue nevus", "halo nevus", "Spitz nevus", "cyst", "acral", "amelanotic", "carcinoma",
    )  # fmt: skip
    assert tree.holder("nodular amelanotic", ("melanoma", "skin")) == "melanoma"
    assert tree.holder("cyst", ("melanoma",)) is None
    with pytest.raises(UsageError, match="levels 0 to 4; there is no 5"):
        tree.level(5)
    with pytest.raises(UsageError, match="has no node 'wart'; known: skin, benign"):
        tree.path("wart")


def test_names_are_found_whatever_their_case_and_the_nearest_are_told(tree):
    assert tree.find("spitz NEVUS", "here") == "Spitz nevus"
    with pytest.raises(
        UsageError, match=r"^here: 'melanom' is unknown; nearest: melanoma, .*; known: skin, "
    ):
        tree.find("melanom", "here")


def test_a_tree_from_the_nodes_above(tree):
    again = Taxonomy.of(dict(tree.parents), tree.about)
    assert (again.parents, again.children) == (tree.parents, tree.children)


def test_coarser_classes_of_a_level(tree):
    classes = ("nevus", "cyst", "acral", "amelanotic")
    level = coarser(tree, classes, 2)
    assert (level.title, level.classes, level.absent) == (
        "3-way",
        ("nevus", "cyst", "melanoma"),
        ("carcinoma",),
    )
    np.testing.assert_allclose(level.sum(np.array([[0.1, 0.2, 0.3, 0.4]])), [[0.1, 0.2, 0.7]])
    assert coarser(tree, classes, 2, held=("carcinoma",)).classes[-1] == "carcinoma"
    with pytest.raises(UsageError, match="'blue nevus' is a part of the class 'nevus'"):
        coarser(tree, classes, 3)


def test_a_node_of_fewer_images_than_the_maximum_is_a_class(tree):
    counts = {"blue nevus": 40, "halo nevus": 30, "Spitz nevus": 29, "cyst": 5, "acral": 60, "amelanotic": 41}
    made = partition(tree, counts, 100)
    # nevus has 99, which is fewer than 100; benign has 104 and is split; melanoma has 101 and is split.
    assert [(one.name, one.images) for one in made.classes] == [
        ("nevus", 99), ("cyst", 5), ("acral", 60), ("amelanotic", 41),
    ]  # fmt: skip
    assert made.classes[0].members == ("nevus", "blue nevus", "halo nevus", "Spitz nevus")
    assert made.empty == ("carcinoma",)
    one_more = partition(tree, counts | {"halo nevus": 31}, 100)
    assert [one.name for one in one_more.classes][:3] == ["blue nevus", "halo nevus", "Spitz nevus"]
    assert [one.name for one in partition(tree, counts, 1000).classes] == ["skin"]


def test_what_the_algorithm_as_printed_passes_over(tree):
    made = partition(tree, {"carcinoma": 500, "melanoma": 70, "acral": 60}, 100)
    assert [one.name for one in made.classes] == ["acral", "carcinoma"]  # a leaf, however large
    assert made.unplaced == {"melanoma": 70}
    assert set(made.empty) == {"benign", "amelanotic"}


@pytest.mark.parametrize("size", [1, 50, 400, 1000, 2000, 20000])
def test_classes_part_the_images(size):
    tree = read_taxonomy(SKIN)
    made = partition(tree, HAM10000, size)
    members = [name for one in made.classes for name in one.members]
    assert len(members) == len(set(members))
    assert sum(one.images for one in made.classes) == 10015
    assert all(one.images < size or not tree.children[one.name] for one in made.classes)


def test_ham10000_with_esteva_s_size():
    made = partition(read_taxonomy(SKIN), HAM10000, 1000)
    assert {one.name: one.images for one in made.classes} == {
        "nv": 6705, "bkl": 1099, "benign dermal": 257, "mel": 1113, "malignant epidermal": 841,
    }  # fmt: skip


def test_probabilities_of_nodes_are_sums_of_their_classes(tree):
    classes = ("cyst", "nevus", "melanoma", "carcinoma")
    matrix = sum_descendants(tree, classes, ("benign", "malignant", "melanoma", "skin"))
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0, 1, 0, 0]])
    np.testing.assert_allclose(p @ matrix, [[0.3, 0.7, 0.3, 1], [1, 0, 0, 1]])
    np.testing.assert_allclose((p @ sum_descendants(tree, classes, tree.level(1))).sum(axis=1), 1)
    assert not sum_descendants(tree, ("cyst",), ("malignant",)).any()


def test_sums_that_mean_nothing_are_refused(tree):
    with pytest.raises(UsageError, match="'blue nevus' lies within 'nevus'"):
        sum_descendants(tree, ("nevus", "blue nevus"), ("benign",))
    with pytest.raises(UsageError, match="'blue nevus' is a part of the class 'nevus'"):
        sum_descendants(tree, ("nevus",), ("blue nevus",))


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        ({"wart": 3}, 10, "no node 'wart'"),
        ({"cyst": -1}, 10, "cannot have -1 images"),
        ({"cyst": 0}, 10, "no node has an image"),
        ({"cyst": 1}, 0, "at least 1; got 0"),
    ],
)
def test_counts_that_cannot_be(tree, counts, size, message):
    with pytest.raises(UsageError, match=message):
        partition(tree, counts, size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntree: &all\n  b: *all\n", "a cycle: a > b > b"),
        ("name: a\ntree:\n  b:\n    a:\n", "a cycle: a > b > a"),
        ("name: a\ntree:\n  b: [c]\n  d: {c: }\n", "'c' is named twice, under 'b' and under 'd'"),
        ("name: a\ntree:\n  b: &part [c]\n  d: *part\n", "'c' is named twice"),
        ("name: a\ntree:\n  b: [c]\n  b: [d]\n", "b named twice in one place"),
        ("name: a\ntree:\n  b: [c, c]\n", "a name comes twice in the list under 'b'"),
        ("name: a\ntree:\n  b: [{c: }]\n", "under 'b': neither names nor a list"),
        ("name: a\ntree:\n  b: 3\n", "under 'b': neither names nor a list of names but 3"),
        ("name: a\ntree:\n  no:\n", "False under 'a' is no name; quote it"),
        ("name: a\ntree:\n", "the tree holds no node"),
        ("name: a\n", "has the fields name, tree and, if wanted, about; got name"),
        ("name: a\ntree: [b]\nroot: c\n", "got name, tree, root"),
        ("- a\n", "got none"),
        ("name: [\n", "not YAML"),
    ],
)
def test_files_that_are_no_tree(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        read_taxonomy(written(tmp_path, text))
    assert "tree.yaml" in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read"):
        read_taxonomy(tmp_path / "none.yaml")


def test_the_command(tmp_path, capfd):
    counts = tmp_path / "counts.csv"
    counts.write_text("label,images\n" + "".join(f"{name},{n}\n" for name, n in HAM10000.items()))
    assert run(["taxonomy", str(SKIN), "--counts", str(counts), "--max-size", "1000"]) == 0
    said = capfd.readouterr().out
    assert "training classes: 5" in said
    assert "257  benign dermal  (df, vasc)" in said
    assert "note: no image, and so no class: malignant dermal, cutaneous lymphoma, non-neoplastic" in said
    assert run(["taxonomy", str(SKIN)]) == 0
    assert "genodermatosis" in capfd.readouterr().out
    counts.write_text("image,label\n1,mel\n2,mel\n3,malignant\n4,bcc\n")
    assert run(["taxonomy", str(SKIN), "--counts", str(counts), "--max-size", "2"]) == 0
    assert "1 images of 'malignant' are in no class" in capfd.readouterr().out
    for text, message in (
        ("label,images\nwart,3\n", "line 2: 'wart' is unknown; known: skin"),
        ("label,images\nmel,x\n", "line 2: images 'x' is no whole number"),
        ("label,images\nmel,1\nmel,1\n", "line 3: label 'mel' for the second time"),
    ):
        counts.write_text(text)
        assert run(["taxonomy", str(SKIN), "--counts", str(counts)]) == 2
        assert message in capfd.readouterr().err


def test_a_class_size_without_counts_is_refused(tmp_path, capsys):
    path = written(tmp_path, "name: x\ntree: {a: , b: }\n")
    assert run(["taxonomy", str(path)]) == 0
    capsys.readouterr()
    assert run(["taxonomy", str(path), "--max-size", "0"]) == 2
    assert "--max-size 0 says nothing without the numbers of images: --counts FILE" in " ".join(
        capsys.readouterr().err.split()
    )
