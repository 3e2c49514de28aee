"""Segmentations beside their truth: two folders of label images, paired by the names of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.core.names import choices
from medvision.sources.label_map import LABEL_SUFFIXES, LabelMap, label_name, mask_files, read_label_map
from medvision.store.files import is_set_aside
from medvision.store.maps import RESULT
from medvision.store.segment_records import result_mask

PIXELS = "px"
_SHOWN = 5
_NEAR_MM = 1e-2
"""Grids whose voxels lie this near to each other are the same: less than any file's rounding matters."""


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """How files are found, paired and measured.

    A case is the name of its file without its ending and without `prediction_suffix` or `truth_suffix`; with a suffix,
    files one folder deeper are found too (`CASE/CASE_seg.nii.gz`). Without one, a folder of masks is a case.

    A result of `medvision segment` is a case as well: its folder's name, and the mask in it (the objects where objects
    are scored).

    `patient` is a regular expression whose group, in the name of a case, is its patient: intervals then draw patients.
    Without it each case is drawn by itself.

    `missing`: what a case without prediction is, an error or an empty prediction. `extra`: what a prediction without
    truth is. `cases` is a text file with the name of one case per line: only these are scored.

    `spacing` (one number, or one per axis in array order) in `unit` takes the place of what volumes state. Without any,
    distances are in pixels.
    """

    prediction_suffix: str = ""
    truth_suffix: str = ""
    missing: Literal["error", "empty"] = "error"
    extra: Literal["error", "ignore"] = "error"
    cases: Path | None = None
    spacing: tuple[float, ...] = ()
    unit: Literal["mm", "um"] = "mm"
    patient: str = ""


@dataclass(frozen=True, slots=True)
class CasePair:
    """The files of one case; `prediction` is None where there is none and it counts as empty."""

    name: str
    truth: Path
    prediction: Path | None


@dataclass(frozen=True, eq=False)
class Case:
    """One case read: two label images of one shape. `spacing` is in `unit`, or 1 where that is "px"."""

    pair: CasePair
    truth: LabelMap
    prediction: LabelMap
    spacing: tuple[float, ...]
    unit: str
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Labels of the truth and of the prediction.

        Raises:
            UnreadableSourceError: naming the file, if its values are no labels.
        """
        return _labels(self.truth, self.pair.truth), _labels(self.prediction, self.pair.prediction)

    @property
    def diagonal(self) -> float:
        """Distance of the image's opposite corners: no two of its pixels lie farther apart."""
        sides = np.array(self.truth.values.shape) - 1
        return float(np.sqrt(((sides * self.spacing) ** 2).sum()))


def patients_of(names: Sequence[str], pattern: str) -> tuple[str, ...] | None:
    """The patient of each case by `CaseFiles.patient`; None without one.

    Raises:
        UsageError: if the pattern is no regular expression with one group, or finds nothing in a name.
    """
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patient {pattern!r}: not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise UsageError(f"--patient {pattern!r}: has {compiled.groups} groups; write one, such as ^(\\d+)_")
    found = []
    for name in names:
        match = compiled.search(name)
        if match is None or not match.group(1):
            raise UsageError(f"--patient {pattern!r}: finds no patient in the name {name!r}")
        found.append(match.group(1))
    return tuple(found)


def pair_cases(
    predictions: Path, truth: Path, files: CaseFiles, *, objects: bool = False
) -> tuple[tuple[CasePair, ...], tuple[str, ...]]:
    """The cases of two folders in the order of their names, and notes on what was left out or is missing.

    With `objects`, of the results of `medvision segment` the numbers of objects are taken where there are any.

    Raises:
        UsageError: if a folder is absent or holds none, one case has two files, or a case lacks one of the two.
    """
    given = _found(predictions, files.prediction_suffix, "--prediction-suffix", objects)
    known = _found(truth, files.truth_suffix, "--truth-suffix", objects)
    notes: list[str] = []
    if files.cases is not None:
        names = _listed(files.cases)
        if lacking := [name for name in names if name not in known]:
            raise UsageError(
                f"{files.cases}: {_few(lacking)} without a file in {truth}; {choices(lacking[0], known)}"
            )
        notes.append(f"{len(names)} of {len(known)} cases are scored, those that {files.cases.name} names")
        known = {name: known[name] for name in names}
        given = {name: path for name, path in given.items() if name in known}
    lacking = sorted(known.keys() - given.keys())
    if len(lacking) == len(known):
        raise UsageError(
            f"no file of {predictions} is named like one of {truth}: {_few(sorted(given))} beside "
            f"{_few(sorted(known))}; --prediction-suffix and --truth-suffix name what follows the common part"
        )
    if lacking and files.missing == "error":
        raise UsageError(
            f"{predictions}: has no prediction of {_few(lacking)}; --missing empty counts each as empty, --cases FILE "
            "names the cases to score"
        )
    if lacking:
        notes.append(
            f"{len(lacking)} of {len(known)} cases have no prediction and count as empty: {_few(lacking)}"
        )
    strange = sorted(given.keys() - known.keys())
    if strange and files.extra == "error":
        raise UsageError(
            f"{truth}: has no truth of {_few(strange)}, which {predictions} has; --extra ignore leaves these out"
        )
    if strange:
        notes.append(f"{len(strange)} predictions without truth are left out: {_few(strange)}")
    return tuple(CasePair(name, known[name], given.get(name)) for name in sorted(known, key=_counted)), tuple(
        notes
    )


def read_case(pair: CasePair, files: CaseFiles) -> Case:
    """Read the two label images of a case.

    Raises:
        UnreadableSourceError: if a file cannot be read.
        UsageError: if their shapes differ, their axes are stored differently and it is not known how they lie, or the
            spacing that was given does not fit their axes.
    """
    truth = read_label_map(pair.truth)
    if pair.prediction is None:
        prediction = replace(truth, values=np.zeros_like(truth.values), shared=0)
    else:
        prediction = read_label_map(pair.prediction)
    shapes = prediction.values.shape, truth.values.shape
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"{pair.prediction}: is {_sides(shapes[0])}, and its truth {pair.truth} {_sides(shapes[1])}; a prediction "
            "must lie on the grid of its truth"
        )
    notes = [*_grid_notes(pair, truth, prediction)]
    for one, path in ((truth, pair.truth), (prediction, pair.prediction)):
        if one.shared and path is not None:
            notes.append(
                f"{path.name}: {one.shared:,} pixels are in several masks and go to the first of them"
            )
    spacing, unit = _spacing(pair, truth, files)
    return Case(pair, truth, prediction, spacing, unit, tuple(notes))


def _labels(image: LabelMap, path: Path | None) -> npt.NDArray[np.int32]:
    try:
        return image.labels
    except UnreadableSourceError as error:
        raise UnreadableSourceError(f"{path}: {error}") from error


def _spacing(pair: CasePair, truth: LabelMap, files: CaseFiles) -> tuple[tuple[float, ...], str]:
    axes = truth.values.ndim
    if files.spacing:
        values = files.spacing * axes if len(files.spacing) == 1 else files.spacing
        if len(values) != axes or not all(np.isfinite(v) and v > 0 for v in values):
            raise UsageError(
                f"a spacing of {' '.join(f'{v:g}' for v in files.spacing)} for {pair.truth}, which has {axes} axes; "
                "give one positive number, or one for each axis"
            )
        return values, "µm" if files.unit == "um" else "mm"
    if truth.spacing is not None:
        return truth.spacing.values, "mm"
    return (1.0,) * axes, PIXELS


def _grid_notes(pair: CasePair, truth: LabelMap, prediction: LabelMap) -> list[str]:
    """Voxels are compared one by one. Files that disagree on where these lie are told of, or refused where one of them
    was turned and the other not."""
    if truth.frame is None or prediction.frame is None or pair.prediction is None:
        return []
    corners = np.array([(0.5, 0.5, 0.5), np.array(truth.values.shape) - 0.5])
    far = float(np.abs(truth.frame.to_world(corners) - prediction.frame.to_world(corners)).max())
    if far <= _NEAR_MM:
        return []
    if truth.stored != prediction.stored:
        raise UsageError(
            f"{pair.prediction}: its voxels lie elsewhere than those of {pair.truth} ({far:.3g} mm apart), in another "
            f"order ({prediction.stored}; {truth.stored}); write it with the header of its truth"
        )
    return [
        f"{pair.name}: prediction and truth lie {far:.3g} mm apart by their headers; compared voxel by voxel"
    ]


def _found(folder: Path, suffix: str, option: str, objects: bool) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of label images")
    found: dict[str, Path] = {}
    for name, path in _candidates(folder, suffix, objects):
        if not name.endswith(suffix) or name == suffix:
            continue
        if (first := found.setdefault(name.removesuffix(suffix), path)) != path:
            raise UsageError(f"{folder}: {first.name} and {path.name} are of one case; remove one of them")
    if not found:
        ending = f" whose name ends in {suffix!r} ({option})" if suffix else ""
        raise UsageError(
            f"{folder}: holds no label image{ending}; read are {', '.join(LABEL_SUFFIXES)}, folders of masks and "
            "results of `medvision segment`"
        )
    return found


def _candidates(folder: Path, suffix: str, objects: bool) -> list[tuple[str, Path]]:
    """Files and folders with their names, without the endings of label images."""
    out: list[Path] = []
    results: list[tuple[str, Path]] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file():
            out.append(path)
        elif (path / RESULT).is_file():  # whose pictures are no masks of objects
            mask = result_mask(path, objects)
            if mask is not None and not is_set_aside(path):
                # Of NAME.nii.gz the folder is NAME.nii. A suffix is of files that others named.
                results.append((path.name.removesuffix(".nii") + suffix, mask))
        elif path.is_dir() and suffix:
            out += sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        elif path.is_dir() and mask_files(path):
            out.append(path)
    files = [(path.name if path.is_dir() else label_name(path), path) for path in out]
    return [*((name, path) for name, path in files if name is not None), *results]


def _listed(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a list of cases: {error}") from error
    names = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise UsageError(f"{path}: names no case; it takes one per line")
    return names


def _counted(name: str) -> list[tuple[int, str]]:
    """A key that puts 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)
