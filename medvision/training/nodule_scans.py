"""Scans in LUNA16's layout for training: where their findings lie, which part each belongs to, and the proof."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.core.geometry import Box, Spacing
from medvision.metrics.nodules import Findings
from medvision.models.nodules.run import LUNG_SPACING_MM, find_lungs
from medvision.sources.base import Values, VolumeSource
from medvision.sources.resample import Reading
from medvision.sources.spacing import require_spacing
from medvision.sources.volume import open_volume
from medvision.store.files import atomic_write
from medvision.store.luna16_files import SCAN_SUFFIXES, read_annotations
from medvision.training.nodule_config import NoduleScansConfig

Floats = npt.NDArray[np.float64]
Part = Literal["train", "validation", "held_out"]
PARTS: tuple[Part, ...] = ("train", "validation", "held_out")

LUNG_PLACES = 4096
"""Places in the lungs that are remembered of a scan."""
_OPEN = 32
_PLANES = 16


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan. Places are in mm from its corner, array order (plane, row, column), and so of no grid.

    `digest` is that of the voxels, whatever the file is called. `nodules` and `excluded` are `(n, 3)` with their
    diameters in mm, `lungs` `(n, 3)` places inside the lungs. `found` and `ignored` are the same findings in the
    patient, as tables of candidates have them.
    """

    uid: str
    path: Path
    fold: str
    part: Part
    digest: str
    nodules: Floats
    diameters_mm: Floats
    excluded: Floats
    excluded_mm: Floats
    lungs: Floats
    found: Findings
    ignored: Findings


@dataclass(frozen=True, eq=False)
class NoduleScans:
    """All scans, in the order of their uids, and the way to their voxels."""

    scans: tuple[Scan, ...]
    reader: ScanReader
    notes: tuple[str, ...] = ()
    """On what of the tables of findings was passed over, or taken for something else."""

    def of(self, *parts: Part) -> tuple[Scan, ...]:
        """The scans of some parts."""
        return tuple(scan for scan in self.scans if scan.part in parts)

    @property
    def digest(self) -> str:
        """SHA-256 of all that is learnt from: contents, findings and parts."""
        return digest_json(
            [
                [
                    scan.uid,
                    scan.digest,
                    scan.part,
                    *(
                        np.round(array, 6).tolist()
                        for array in (scan.nodules, scan.diameters_mm, scan.excluded, scan.excluded_mm)
                    ),
                ]
                for scan in self.scans
            ]
        )

    def proof(self) -> str:
        """How the scans are split, in words. What it says was checked by `load_scans`."""
        said = []
        for part in PARTS:
            held = self.of(part)
            nodules = sum(len(scan.nodules) for scan in held)
            folds = ", ".join(sorted({scan.fold for scan in held}))
            said.append(f"{part.replace('_', ' ')} {len(held)} scans, {nodules} nodules ({folds})")
        return "; ".join(said) + "; no uid and no content in two parts"


class ScanReader:
    """Windows of scans at any spacing. A number of scans stay open, those used last."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, VolumeSource] = OrderedDict()

    def source(self, path: Path) -> VolumeSource:
        """The scan, opened; it is closed when many others have been used since."""
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = open_volume(path)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        return self._open[path]

    def window(self, path: Path, start: Sequence[int], shape: Sequence[int], spacing: Spacing) -> Values:
        """Values `shape` of the grid at `spacing`, from voxel `start`; what lies outside is air."""
        read = Reading.of(self.source(path), spacing).read(Box.at(tuple(start), tuple(shape)))
        return read[..., 0]

    def close(self) -> None:
        """Close all scans."""
        while self._open:
            self._open.popitem()[1].close()


def load_scans(
    config: NoduleScansConfig, progress: Path, on_scan: Callable[[int, int], None] | None = None
) -> NoduleScans:
    """Find the scans, place their findings, and prove that parts share nothing.

    Args:
        config: where they are, and which fold is for what.
        progress: folder in which the places of lungs are kept, as finding them takes a second a scan.
        on_scan: told how many scans are done, of how many.

    Raises:
        UsageError: if there is no scan or fold of a name, a scan has no nodule table, two files share a uid, a scan
            lies in two parts by its uid or content, a nodule lies outside its scan, a part is empty, or nothing to
            learn has a nodule.
    """
    files = _files(config)
    uids = sorted(files)
    nodules = read_annotations(config.folder / config.annotations, uids, False)
    excluded = read_annotations(config.folder / config.excluded, uids, True)
    reader = ScanReader()
    scans = []
    progress.mkdir(parents=True, exist_ok=True)
    for number, uid in enumerate(uids, 1):
        path, fold, part = files[uid]
        source = reader.source(path)
        frame = source.frame
        spacing = require_spacing(source, "mm").values
        if frame is None or source.quantity != "HU":
            raise UsageError(f"{path}: not a CT in Hounsfield units, which nodules are looked for in")
        found, ignored = nodules.findings(uid), excluded.findings(uid)
        _check_inside(source, found, config.folder / config.annotations, uid)
        digest, lungs = _seen(source, progress / f"scan-{source.id[:16]}.npz")
        scans.append(
            Scan(
                uid=uid,
                path=path,
                fold=fold,
                part=part,
                digest=digest,
                nodules=frame.to_voxels(found.centres) * spacing,
                diameters_mm=found.radii_mm * 2,
                excluded=frame.to_voxels(ignored.centres) * spacing,
                excluded_mm=ignored.radii_mm * 2,
                lungs=lungs,
                found=found,
                ignored=ignored,
            )
        )
        if on_scan is not None:
            on_scan(number, len(uids))
    held = NoduleScans(tuple(scans), reader, (*nodules.notes, *excluded.notes))
    _check(held, config)
    return held


def write_split(held: NoduleScans, path: Path) -> None:
    """The parts with their folds, scans and content digests as JSON, and the proof in words."""
    said = {
        "proof": held.proof(),
        "parts": {
            part: [{"seriesuid": s.uid, "fold": s.fold, "sha256": s.digest} for s in held.of(part)]
            for part in PARTS
        },
    }
    atomic_write(path, (json.dumps(said, indent=1) + "\n").encode())


def _files(config: NoduleScansConfig) -> dict[str, tuple[Path, str, Part]]:
    """File, fold and part of each uid."""
    if not config.folder.is_dir():
        raise UsageError(f"{config.folder}: no folder of scans")
    folds = {folder.name: folder for folder in sorted(config.folder.iterdir()) if folder.is_dir()}
    tables = {"masks", *(name for name in folds if name.startswith("."))}
    parts: dict[str, Part] = dict.fromkeys(config.validation, "validation")
    parts |= dict.fromkeys(config.held_out, "held_out")
    others = [name for name in folds if name not in parts and name not in tables and _scans_in(folds[name])]
    parts |= dict.fromkeys(others if config.train is None else config.train, "train")
    if unknown := [name for name in parts if name not in folds]:
        raise UsageError(
            f"{config.folder}: has no fold {unknown[0]!r}; its folders: {', '.join(folds) or 'none'}"
        )
    files: dict[str, tuple[Path, str, Part]] = {}
    for name, part in parts.items():
        for uid, path in _scans_in(folds[name]):
            if uid in files:
                raise UsageError(f"{path}: a scan of this uid is in fold {files[uid][1]!r}, too")
            files[uid] = (path, name, part)
    return files


def _scans_in(folder: Path) -> list[tuple[str, Path]]:
    found = []
    for path in sorted(folder.iterdir()):
        ending = next((e for e in SCAN_SUFFIXES if path.name.lower().endswith(e)), None)
        if ending is not None and path.is_file():
            found.append((path.name[: -len(ending)], path))
        elif path.is_dir():
            found.append((path.name, path))
    return found


def _seen(source: VolumeSource, kept: Path) -> tuple[str, Floats]:
    """The digest of a scan's voxels, and places in its lungs; from the file `kept`, where that is there."""
    if kept.exists():
        with np.load(kept) as file:
            return str(file["digest"]), file["lungs"].astype(np.float64)
    digest = _voxel_digest(source)
    places = np.argwhere(find_lungs(source).mask)
    if len(places) > LUNG_PLACES:
        rng = np.random.default_rng(0)
        places = places[np.sort(rng.choice(len(places), LUNG_PLACES, replace=False))]
    found = ((places + 0.5) * LUNG_SPACING_MM).astype(np.float32)
    part = kept.with_suffix(".part.npz")
    np.savez(part, digest=np.array(digest), lungs=found)
    part.replace(kept)
    return digest, found.astype(np.float64)


def _check_inside(source: VolumeSource, nodules: Findings, table: Path, uid: str) -> None:
    """A nodule that does not meet its scan is in other coordinates, and windows about it would show air."""
    assert source.frame is not None, "scans without a place in the patient are refused before"
    spacing = np.array(require_spacing(source, "mm").values)
    places, end = (
        source.frame.to_voxels(nodules.centres) * spacing,
        np.array(source.levels[0].shape) * spacing,
    )
    beyond = np.linalg.norm(places - np.clip(places, 0, end), axis=1) > nodules.radii_mm
    if beyond.any():
        x, y, z = nodules.centres[beyond][0].tolist()
        low, high = source.frame.to_world([[0, 0, 0], source.levels[0].shape]).tolist()
        reach = ", ".join(
            f"{axis} {min(a, b):.1f} to {max(a, b):.1f}" for axis, a, b in zip("xyz", low, high, strict=True)
        )
        raise UsageError(
            f"{table}: a nodule of {uid} at {x:g}, {y:g}, {z:g} lies outside its scan, which spans {reach} mm (LPS)"
        )


def _voxel_digest(source: VolumeSource) -> str:
    """SHA-256 of shape and voxels. `source.id` is no help: a header names its file of voxels, and so copies differ."""
    planes, rows, columns = source.levels[0].shape
    digest = hashlib.sha256(repr((planes, rows, columns)).encode())
    for first in range(0, planes, _PLANES):
        box = Box((first, 0, 0), (min(first + _PLANES, planes), rows, columns))
        digest.update(np.ascontiguousarray(source.read(box, 0), np.int16).tobytes())
    return digest.hexdigest()


def _check(held: NoduleScans, config: NoduleScansConfig) -> None:
    owners: dict[str, Scan] = {}
    for scan in held.scans:
        first = owners.setdefault(scan.digest, scan)
        if first.part != scan.part:
            raise UsageError(
                f"{scan.path}: has the content of {first.path.name} in fold {first.fold!r}; one is {scan.part}, the "
                f"other {first.part}"
            )
    for part in PARTS:
        if not held.of(part):
            raise UsageError(f"{config.folder}: no scan is for {part.replace('_', ' ')}")
    if not any(len(scan.nodules) for scan in held.of("train")):
        raise UsageError(f"{config.folder / config.annotations}: no scan to learn from has a nodule")
