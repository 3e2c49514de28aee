"""Labelled images: every way to store a set gives the same type, nothing leaks, and what is unknown is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvision.core.errors import SourceTooLargeError, UnreadableSourceError, UsageError
from medvision.sources import image_archive
from medvision.training.classify_config import read_classify_config
from medvision.training.config_file import validated
from medvision.training.images import ImageArrays, LabelledImages
from medvision.training.images_config import ColumnsConfig, ImagesConfig
from medvision.training.images_groups import PRESETS, grouped
from medvision.training.images_load import load_images, read_images
from medvision.training.images_proof import check_groups, write_proof
from medvision.training.images_read import read_class_folders, read_medmnist, read_table
from medvision.training.images_split import new_split, validation_from_train


def picture(seed: int, side: int = 24) -> np.ndarray:
    """A grey image `(side, side)` with something to recognise it by."""
    coarse = np.random.default_rng(seed).integers(0, 256, (side // 2, side // 2), np.uint8)
    return np.repeat(np.repeat(coarse, 2, 0), 2, 1)


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)
    return path


def labelled(
    groups: list[str],
    labels: list[int],
    splits: list[str] | None = None,
    classes: tuple[str, ...] = ("a", "b"),
) -> LabelledImages:
    n = len(groups)
    arrays = np.stack([picture(i) for i in range(n)])
    places = np.stack([np.zeros(n, np.int64), np.arange(n)], axis=1)
    return LabelledImages(
        ImageArrays((arrays,), places), tuple(f"image {i}" for i in range(n)), np.array(labels), classes,
        tuple(groups), "hand", None if splits is None else tuple(splits), {},
    )  # fmt: skip


def load(**content: object):
    return load_images(validated(content, ImagesConfig))


@pytest.fixture
def oct_folder(tmp_path: Path) -> Path:
    """Ten patients, each with two images: of both classes where the number is even."""
    for patient in range(10):
        for n in range(2):
            name = "CNV" if patient % 2 == 0 and n == 0 else "NORMAL"
            save(tmp_path / "oct" / name / f"{name}-{patient}-{n}.png", 10 * patient + n)
    (tmp_path / "oct" / "CNV" / "notes.txt").write_text("no image")
    (tmp_path / "oct" / "CNV" / ".hidden.png").write_text("no image")
    return tmp_path / "oct"


def test_a_folder_per_class(oct_folder):
    images = read_class_folders(oct_folder)
    assert (images.classes, images.counts()) == (("CNV", "NORMAL"), {"CNV": 5, "NORMAL": 15})
    assert images.names[0] == "CNV/CNV-0-0.png" and images.groups is None and images.splits is None
    np.testing.assert_array_equal(images.read(0), picture(0))
    assert images.provenance["class order"] == "sorted by name"
    assert images.provenance["other files passed over"] == "1"
    turned = read_class_folders(oct_folder, ["NORMAL", "CNV"])
    assert turned.classes == ("NORMAL", "CNV") and turned.labels.tolist() == [1] * 5 + [0] * 15
    assert turned.provenance["class order"] == "as given"


def test_classes_are_neither_lost_nor_made_up(oct_folder, tmp_path):
    save(oct_folder / "DME" / "DME-77-1.png", 1)
    with pytest.raises(UsageError, match=r"class 'DME' in neither list; there are CNV, DME, NORMAL"):
        read_class_folders(oct_folder, ["CNV", "NORMAL"])
    assert len(read_class_folders(oct_folder, ["CNV", "NORMAL"], ["DME"])) == 20
    with pytest.raises(UsageError, match=r"class 'DRUSEN' without images"):
        read_class_folders(oct_folder, ["CNV", "NORMAL", "DME", "DRUSEN"])
    with pytest.raises(UsageError, match=r"no class 'drusen' to leave out"):
        read_class_folders(oct_folder, leave_out=["drusen"])
    with pytest.raises(UsageError, match="no such folder"):
        read_class_folders(tmp_path / "absent")
    save(oct_folder / "CNV" / "deeper" / "a.png", 1)
    with pytest.raises(UsageError, match=r"deeper: a folder within the folder of class 'CNV'"):
        read_class_folders(oct_folder)


def test_a_folder_per_split_and_class(tmp_path):
    for n, side in enumerate(("train", "val", "test")):
        for k, name in enumerate(("NORMAL", "PNEUMONIA")):
            save(tmp_path / side / name / f"person{n}{k}_virus_1.png", 10 * n + k)
    images, proof = load(folder=tmp_path, group="kermany-chest")
    assert images.splits == ("test",) * 2 + ("train",) * 2 + ("validation",) * 2
    assert proof.shared_groups == {"train and validation": 0, "train and test": 0, "validation and test": 0}
    assert images.provenance["split"] == "given with the data"


def test_a_table_with_columns_of_any_name(tmp_path):
    for n in range(4):
        save(tmp_path / f"part_{n % 2}" / f"ISIC_{n}.jpg", n)
    table = tmp_path / "metadata.csv"
    table.write_text(
        "lesion_id,image_id,dx,age\n"
        + "".join(f"HAM_{n // 2},ISIC_{n},{'nv' if n else 'mel'},\n" for n in range(4))
    )
    columns = ColumnsConfig(path="image_id", label="dx", group="lesion_id")
    folders = (tmp_path / "part_0", tmp_path / "part_1")
    images = read_table(table, columns, folders, ".jpg")
    assert images.groups == ("HAM_0", "HAM_0", "HAM_1", "HAM_1")
    assert (images.classes, images.labels.tolist()) == (("mel", "nv"), [0, 1, 1, 1])
    assert images.grouped_by == "column lesion_id of metadata.csv"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,label\n", "lists no image"),
        ("file,label\na.png,x\n", r"no column 'path' \(columns.path\); columns: file, label"),
        ("path,label\na.png,x\nb.png,y\nb.png,y\n", r"line 4: 'b.png' for the second time \(as in line 3\)"),
        ("path,label,side\na.png,x,train\nc.png,y,test\n", "line 3: no such file 'c.png', sought in"),
        ("path,label,side\na.png,,train\n", "line 2: label is empty"),
        ("path,label,side\na.png,x,fold 1\n", "line 2: split 'fold 1' is none of train"),
    ],
)  # fmt: skip
def test_tables_that_are_wrong_are_told_by_line(text, reason, tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, 1)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_table(tmp_path / "t.csv", ColumnsConfig(split="side" if "side" in text else None))


def test_a_table_with_a_column_per_class_and_groups_in_another(tmp_path):
    """As ISIC 2018 and 2019 publish theirs."""
    for n in range(5):
        save(tmp_path / f"ISIC_{n}.jpg", n)
    truth, lesions = tmp_path / "GroundTruth.csv", tmp_path / "Metadata.csv"
    truth.write_text(
        "image,MEL,NV,BKL,UNK\n"
        "ISIC_0,1.0,0.0,0.0,0.0\nISIC_1,0.0,1.0,0.0,0.0\nISIC_2,0,0,1,0\nISIC_3,0,1,0,0\nISIC_4,1,0,0,0\n"
    )
    lesions.write_text(
        "image,age,lesion_id\nISIC_4,,\nISIC_0,50,HAM_1\nISIC_1,,HAM_2\nISIC_2,,HAM_3\nISIC_3,,HAM_2\n"
    )
    columns = {
        "path": "image",
        "one_hot": ["MEL", "NV", "BKL", "UNK"],
        "group": "lesion_id",
        "group_if_empty": "image",
    }
    given = {
        "csv": str(truth),
        "suffix": ".jpg",
        "group_csv": str(lesions),
        "columns": columns,
        "split": {"fractions": {"train": 0.6, "test": 0.4}},
    }
    images = load_images_of(given)
    assert images.classes == ("BKL", "MEL", "NV"), "no image is UNK"
    assert [images.classes[label] for label in images.labels] == ["MEL", "NV", "BKL", "NV", "MEL"]
    assert images.groups == ("HAM_1", "HAM_2", "HAM_3", "HAM_2", "image ISIC_4")
    assert images.grouped_by == "column lesion_id of Metadata.csv"
    columns["group_if_empty"] = "refuse"
    with pytest.raises(UsageError, match=r"line 6: lesion_id is empty; `columns: {group_if_empty: image}`"):
        load_images_of(given)
    lesions.write_text("image,lesion_id\nISIC_0,HAM_1\n")
    with pytest.raises(UsageError, match=r"GroundTruth.csv, line 3: Metadata.csv says nothing of 'ISIC_1'"):
        load_images_of(given)
    lesions.write_text("image,lesion_id\nISIC_0,HAM_1\nISIC_0,HAM_2\n")
    with pytest.raises(UsageError, match=r"Metadata.csv, line 3: another group for 'ISIC_0'"):
        load_images_of(given)


def load_images_of(content: dict[str, object]) -> LabelledImages:
    return read_images(validated(content, ImagesConfig))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            "a.png,1,1,0",
            r"line 2: 'a.png' must have a 1 in one of MEL, NV, BKL .*it has 1 in MEL and NV; a classifier",
        ),
        ("a.png,0,0,0", "line 2: 'a.png' must have .*it has no 1"),
        ("a.png,,1,-1", "line 2: 'a.png' must have .*it has '' in MEL, '-1' in BKL"),
    ],
)
def test_an_image_of_several_findings_is_told_by_row_and_columns(row, reason, tmp_path):
    save(tmp_path / "a.png", 1)
    (tmp_path / "t.csv").write_text(f"path,MEL,NV,BKL\n{row}\n")
    with pytest.raises(UsageError, match=reason):
        read_table(tmp_path / "t.csv", ColumnsConfig(one_hot=("MEL", "NV", "BKL")))
    (tmp_path / "nih.csv").write_text("path,Finding Labels\na.png,Effusion|Mass\n")
    with pytest.raises(
        UsageError, match=r"line 2: column Finding Labels gives 'a.png' several classes, Effusion and Mass"
    ):
        read_table(tmp_path / "nih.csv", ColumnsConfig(label="Finding Labels"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"csv": "t.csv", "columns": {"label": "x", "one_hot": ["a", "b"]}}, "label and one_hot both say"),
        ({"csv": "t.csv", "columns": {"one_hot": ["a"]}}, "one_hot names two columns or more"),
        ({"csv": "t.csv", "columns": {"one_hot": ["a", "a"]}}, "each once"),
        ({"csv": "t.csv", "group_csv": "g.csv"}, "group_csv is for a csv, and holds the column"),
    ],
)
def test_columns_that_contradict(content, reason):
    with pytest.raises(UsageError, match=reason):
        validated(content, ImagesConfig)


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_medmnist_archives(tmp_path):
    grey = np.stack([picture(n) for n in range(6)])
    colour = np.repeat(grey[..., None], 3, axis=-1)
    labels = np.array([[0], [1], [2], [0], [1], [2]], np.uint8)
    for images in (grey, colour):
        path = archive(
            tmp_path / "m.npz", train_images=images, train_labels=labels, val_images=images[:3] ^ 255,
            val_labels=labels[:3],
        )  # fmt: skip
        read = read_medmnist(path, ["x", "y", "z"], ["y"])
        assert (read.classes, read.labels.tolist()) == (("x", "z"), [0, 1, 0, 1, 0, 1])
        assert read.splits == ("train",) * 4 + ("validation",) * 2
        assert read.names[1] == "train/2"
        np.testing.assert_array_equal(read.read(1), images[2])
        assert not read.read(1).flags.writeable
    assert read_medmnist(path).classes == ("0", "1", "2")
    with pytest.raises(UsageError, match=r"labels go up to 2, but `classes` names 2"):
        read_medmnist(path, ["x", "y"])


def test_archives_of_another_kind_are_refused(tmp_path, monkeypatch):
    ones = np.ones((2, 8, 8), np.uint8)
    bad = {
        "volumes": ({"train_images": np.ones((2, 8, 8, 8), np.uint8), "train_labels": [0, 1]}, "shape"),
        "several": ({"train_images": ones, "train_labels": np.ones((2, 14), int)}, "14 labels an image"),
        "short": ({"train_images": ones, "train_labels": [0]}, "for 2 images"),
        "float": ({"train_images": ones / 2, "train_labels": [0, 1]}, "float64"),
        "objects": ({"train_images": ones, "train_labels": np.array([{}, {}])}, "not a readable .npz"),
        "other": ({"x": ones}, "no arrays such as train_images"),
    }
    for name, (arrays, reason) in bad.items():
        path = archive(tmp_path / f"{name}.npz", **{k: np.asarray(v) for k, v in arrays.items()})
        with pytest.raises(UnreadableSourceError, match=rf"{name}.npz: .*{reason}"):
            read_medmnist(path)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UnreadableSourceError, match=r"text\.npz"):
        read_medmnist(tmp_path / "text.npz")
    monkeypatch.setattr(image_archive, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(SourceTooLargeError, match="claims 144 bytes"):
        read_medmnist(archive(tmp_path / "large.npz", train_images=ones, train_labels=np.array([0, 1])))


@pytest.mark.parametrize(
    ("preset", "name", "group"),
    [
        ("kermany-oct", "CNV-1016042-12", "1016042"),
        ("kermany-oct", "DRUSEN-53018-1", "53018"),
        ("kermany-oct", "BACTERIA-1008087-0001", "1008087"),
        ("kermany-oct", "test_cnv", None),
        ("kermany-chest", "person123_bacteria_45", "person123"),
        ("kermany-chest", "person1_virus_6", "person1"),
        ("kermany-chest", "IM-0115-0001", "IM-0115"),
        ("kermany-chest", "IM-0669-0001-0002", "IM-0669"),
        ("kermany-chest", "NORMAL2-IM-0427-0001", "NORMAL2-IM-0427"),
        ("kermany-chest", "personal", None),
    ],
)
def test_presets_know_the_names_of_the_published_sets(preset, name, group):
    found = re.search(PRESETS[preset], name)
    assert (found and found["patient"]) == group


def test_without_a_group_there_is_no_split(oct_folder):
    split = {"fractions": {"train": 0.6, "test": 0.4}}
    with pytest.raises(
        UsageError, match=r"nothing says which of the 20 images.*'CNV/CNV-0-0.png'.*kermany-oct.*group: image"
    ):
        load(folder=oct_folder, split=split)
    with pytest.raises(UsageError, match=r"20 of 20 names do not say whose.*'CNV/CNV-0-0.png'"):
        load(folder=oct_folder, split=split, group="kermany-chest")
    _, proof = load(folder=oct_folder, split=split, group="image")
    assert not proof.groups_known and "Patients are unknown" in "\n".join(proof.lines())
    by_number, known = load(folder=oct_folder, split=split, group_pattern=r"-(?P<eye>\d+)-")
    assert known.groups_known and len(set(by_number.groups)) == 10
    assert by_number.grouped_by.startswith("eye in the file's name")
    with pytest.raises(UsageError, match="the 20 images are not split"):
        load(folder=oct_folder, group="image")


def test_a_leak_is_refused_with_examples():
    images = labelled(["p", "q", "p", "r"], [0, 1, 0, 1], ["train", "train", "test", "test"])
    with pytest.raises(
        UsageError, match=r"1 of 3 groups lie in more than one split.*'p' \(train: image 0, test: image 2\)"
    ):
        check_groups(images)
    good = labelled(["p", "q", "r", "r"], [0, 1, 0, 1], ["train", "train", "test", "test"])
    assert check_groups(good) == {"train and test": 0}
    with pytest.raises(UsageError, match="images to train on and others"):
        check_groups(labelled(["p"], [0], ["test"]))


def test_a_split_by_hand():
    """Four groups of two images a class each: half of them on each side, whatever the seed."""
    images = labelled([f"g{i // 2}" for i in range(8)], [0, 0, 0, 0, 1, 1, 1, 1])
    for seed in range(5):
        split = new_split(images, {"train": 0.5, "test": 0.5}, seed)
        for side in ("train", "test"):
            assert split.of(side).counts() == {"a": 2, "b": 2}
    with pytest.raises(
        UsageError, match=r"class 'a' is in 2 group\(s\), too few for train, validation, test"
    ):
        new_split(images, {"train": 0.5, "validation": 0.25, "test": 0.25}, 0)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=12, max_size=60),
    seed=st.integers(0, 2**32),
    train=st.floats(0.3, 0.8),
)
def test_groups_are_never_torn_and_no_image_is_lost(sizes, seed, train):
    groups = [f"g{i}" for i, (size, _) in enumerate(sizes) for _ in range(size)]
    labels = [label for size, label in sizes for _ in range(size)]
    one = np.zeros((1, 2, 2), np.uint8)
    images = LabelledImages(
        ImageArrays((one,), np.zeros((len(groups), 2), np.int64)), tuple(map(str, range(len(groups)))),
        np.array(labels), ("a", "b", "c"), tuple(groups), "hand", None, {},
    )  # fmt: skip
    fractions = {"train": train, "validation": (1 - train) / 2, "test": (1 - train) / 2}
    few = any(sum(label == c for _, label in sizes) < 3 for c in range(3))
    if few:
        with pytest.raises(UsageError, match="too few"):
            new_split(images, fractions, seed)
        return
    split = new_split(images, fractions, seed)
    assert set(check_groups(split).values()) == {0}
    assert len(split) == len(split.splits) == len(groups)
    for side in fractions:
        assert min(split.of(side).counts().values()) > 0
    order = np.random.default_rng(0).permutation(len(groups))
    again = new_split(images.take(order.tolist()), fractions, seed)
    assert [split.splits[i] for i in order] == list(again.splits)


def test_shares_are_met_when_groups_are_many():
    rng = np.random.default_rng(3)
    sizes = rng.geometric(0.2, 600)
    labels = np.repeat(rng.choice(3, 600, p=[0.7, 0.2, 0.1]), sizes)
    groups = np.repeat([f"g{i}" for i in range(600)], sizes)
    one = np.zeros((1, 2, 2), np.uint8)
    images = LabelledImages(
        ImageArrays((one,), np.zeros((len(groups), 2), np.int64)), tuple(map(str, range(len(groups)))), labels,
        ("a", "b", "c"), tuple(groups.tolist()), "hand", None, {},
    )  # fmt: skip
    fractions = {"train": 0.7, "validation": 0.1, "test": 0.2}
    split = new_split(images, fractions, 0)
    for side, share in fractions.items():
        for name, count in split.of(side).counts().items():
            assert count / images.counts()[name] == pytest.approx(share, abs=0.02)
        # Groups of every size: none of the sides has only small ones.
        assert len(set(split.of(side).groups)) / 600 == pytest.approx(share, abs=0.05)
    assert new_split(images, fractions, 1).splits != split.splits


def test_validation_images_are_taken_from_training_groups_alone():
    groups = [f"g{i // 2}" for i in range(40)]
    images = labelled(groups, [0, 1] * 20, ["train"] * 30 + ["test"] * 10)
    parted = validation_from_train(images, 0.2, 0)
    assert parted.splits[30:] == ("test",) * 10
    assert parted.of("validation").counts() == {"a": 3, "b": 3}
    check_groups(parted)
    with pytest.raises(UsageError, match="has validation images"):
        validation_from_train(parted, 0.2, 0)


def test_the_digest_is_of_what_counts(oct_folder, tmp_path):
    images = grouped(read_class_folders(oct_folder), "kermany-oct", None)
    first = images.digest
    moved = tmp_path / "moved"
    oct_folder.rename(moved)
    assert grouped(read_class_folders(moved), "kermany-oct", None).digest == first
    with pytest.raises(UnreadableSourceError, match=r"CNV-0-0\.png: No such file"):
        images.store.digest(0)
    digests = {
        first,
        grouped(read_class_folders(moved), "image", None).digest,
        grouped(read_class_folders(moved, ["NORMAL", "CNV"]), "kermany-oct", None).digest,
        grouped(read_class_folders(moved, window="full"), "kermany-oct", None).digest,
    }
    save(moved / "CNV" / "CNV-0-0.png", 999)
    digests.add(grouped(read_class_folders(moved), "kermany-oct", None).digest)
    assert len(digests) == 5


def test_the_proof_is_written(oct_folder, tmp_path):
    _, proof = load(
        folder=oct_folder, group="kermany-oct", split={"fractions": {"train": 0.6, "test": 0.4}, "seed": 4}
    )
    data, text = write_proof(proof, tmp_path)
    told = json.loads(data.read_text())
    assert told["shared_groups"] == {"train and test": 0} and told["digest"] == proof.digest
    assert sum(side["groups"] for side in told["splits"].values()) == 10
    assert "groups in both train and test: 0" in text.read_text()
    assert "seed 4: train 0.6, test 0.4" in text.read_text()


def test_an_unreadable_image_is_found_at_once(oct_folder):
    (oct_folder / "CNV" / "CNV-0-0.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(UnreadableSourceError, match=r"CNV-0-0.png"):
        load(folder=oct_folder, group="kermany-oct", split={"fractions": {"train": 0.5, "test": 0.5}})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "name one of folder, csv, npz and voc, not none"),
        ({"folder": "a", "npz": "b"}, "not folder and npz"),
        ({"folder": "a", "suffix": ".jpg"}, "are for a csv"),
        ({"csv": "a", "columns": {"group": "p"}, "group": "image"}, "group and columns.group say twice"),
        ({"npz": "a", "group": "kermany-oct"}, "only `group: image`"),
        ({"folder": "a", "group_pattern": r"(\d+)"}, "needs one named group"),
        ({"folder": "a", "group_pattern": "("}, "no regular expression"),
        ({"folder": "a", "split": {"fractions": {"train": 0.5, "test": 0.4}}}, "sum to 1, not 0.9"),
        ({"folder": "a", "split": {"fractions": {"test": 1.0}}}, "name train and at least one"),
        (
            {"folder": "a", "split": {"fractions": {"train": 0.5, "test": 0.5}, "validation_from_train": 0.1}},
            "name one of them",
        ),
        ({"folder": "a", "clases": ["x", "y"]}, "clases: no such field"),
    ],
)  # fmt: skip
def test_configurations_that_mean_nothing(content, reason):
    with pytest.raises(UsageError, match=reason):
        validated(content, ImagesConfig)


def test_real_names_of_oct_images_do_not_say_the_patient(shared):
    with pytest.raises(UsageError, match="no images"):
        read_class_folders(shared / "classification" / "oct_kermany")


def test_a_real_folder_of_images(shared):
    images = read_class_folders(shared / "vision" / "cifar10_subset", ["cat", "dog"], [
        "airplane", "automobile", "bird", "deer", "frog", "horse", "ship", "truck"
    ])  # fmt: skip
    assert images.of("train").counts() == {"cat": 100, "dog": 100}
    assert images.read(0).shape == (32, 32, 3)


@pytest.fixture
def chest_folder(tmp_path: Path) -> Path:
    """As the chest X-rays of Kermany et al. lie: the kind of a pneumonia is in the file's name alone."""
    seed = 100
    for side, first in (("train", 0), ("test", 20)):
        for person in range(first, first + 12):
            kind = ("bacteria", "virus")[person % 2]
            for number in (1, 2):
                save(tmp_path / side / "PNEUMONIA" / f"person{person}_{kind}_{number}.jpeg", seed := seed + 1)
            save(tmp_path / side / "NORMAL" / f"NORMAL2-IM-{person:04d}-0001.jpeg", seed := seed + 1)
    return tmp_path


KINDS = {"bacterial": r"^person\d+_bacteria_", "viral": r"^person\d+_virus_"}


def test_classes_may_be_in_the_names_of_the_files(chest_folder: Path) -> None:
    images, proof = load(
        folder=chest_folder, classes=("bacterial", "viral"), class_patterns=KINDS, leave_out=("NORMAL",),
        group="kermany-chest", split={"fractions": {"train": 0.75, "test": 0.25}},
    )  # fmt: skip
    assert len(images) == 48 and set(images.counts().values()) == {24}
    for name, label in zip(images.names, images.labels, strict=True):
        assert ("_virus_" in name) == (images.classes[label] == "viral")
    assert set(proof.shared_groups.values()) == {0}, "no person is on two sides"
    assert "viral where the file's name has" in "\n".join(proof.lines())


def test_files_without_a_pattern_have_the_class_of_their_folder(chest_folder: Path) -> None:
    names = ("NORMAL", "bacterial", "viral")
    images = read_class_folders(chest_folder, names, class_patterns=KINDS)
    assert images.counts() == {"NORMAL": 24, "bacterial": 24, "viral": 24}
    save(chest_folder / "train" / "PNEUMONIA" / "person9.jpeg", 7)
    with pytest.raises(UsageError, match="class 'PNEUMONIA' in neither list"):
        read_class_folders(chest_folder, names, class_patterns=KINDS)
    with pytest.raises(UsageError, match="patterns of two classes, a and b"):
        read_class_folders(chest_folder, class_patterns={"a": "person", "b": "virus"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"folder": ".", "class_patterns": KINDS}, "with `classes` named"),
        ({"csv": "a.csv", "classes": ("a", "b"), "class_patterns": KINDS}, "are for a folder"),
        ({"folder": ".", "classes": ("a", "b"), "class_patterns": {"a": "("}}, "no regular expression"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(content: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        validated(content, ImagesConfig)


def test_the_configurations_of_chest_xrays_fit_the_published_folders(chest_folder: Path) -> None:
    configs = Path(__file__).parents[3] / "configs"
    for name, counts in (("train-cxr-from-oct", [24, 48]), ("train-cxr-bacterial-viral", [24, 24])):
        config = read_classify_config(configs / f"{name}.yaml", chest_folder)
        images, _ = load_images(config.images)
        assert list(images.counts().values()) == counts
        assert config.weights == chest_folder / "../out/oct/model.safetensors"
    full, limited = (read_classify_config(configs / f"train-oct{end}.yaml") for end in ("", "-limited"))
    assert limited.limit_per_class == 1000
    same = {"images", "trunk", "weights", "input_px", "batch_size", "augmentation", "sampling"}
    assert limited.model_dump(include=same) == full.model_dump(include=same)
