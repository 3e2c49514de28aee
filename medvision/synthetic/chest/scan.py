"""A synthetic scan with its truth: HU, label masks, nodules and what is none; and the files of one scan."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.world import WorldFrame
from medvision.sources.write_volume import write_dicom_series, write_metaimage, write_nifti
from medvision.store.files import make_output
from medvision.synthetic.chest import render, scene
from medvision.synthetic.chest.findings import Finding
from medvision.synthetic.chest.recipe import ChestRecipe
from medvision.synthetic.chest.scene import Scene
from medvision.synthetic.chest.tubes import draw_tubes

Labels = npt.NDArray[np.uint8]
Format = Literal["mhd", "zraw", "nifti", "dicom"]
"""Of voxels: MetaImage, plain or by zlib, NIfTI, or a folder of DICOM files. Masks are compressed MetaImage always."""

LEFT_LUNG, RIGHT_LUNG, AIRWAY = 3, 4, 5
"""Labels of the lung mask, the patient's left and right."""
_FINE = 24
"""Places along a nodule's diameter at which its truth is measured."""


@dataclass(frozen=True, slots=True)
class TrueFinding:
    """A finding as it was drawn: centre of gravity in the world (x, y, z), LPS mm, and diameter of the equal sphere.

    `what` is "nodule" or says what it is instead; `diameter_mm` is -1 where one makes no sense. `label` is the nodule's
    number in the mask, 0 for what is none. `hu` is the density that its body was drawn with, before blur and noise.
    """

    what: str
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    label: int = 0
    volume_mm3: float = -1.0
    kind: str = ""
    margin: str = ""
    place: str = ""
    hu: float = 0.0


@dataclass(frozen=True, eq=False)
class ChestScan:
    """A scan in memory: `hu` int16, `lungs` and `nodule_labels` uint8, all (slice, row, column) as `frame` says."""

    recipe: ChestRecipe
    frame: WorldFrame
    hu: npt.NDArray[np.int16]
    lungs: Labels
    nodule_labels: Labels
    nodules: tuple[TrueFinding, ...]
    others: tuple[TrueFinding, ...]


def draw_scan(recipe: ChestRecipe) -> ChestScan:
    """The scan of a recipe; the same recipe gives the same voxels.

    Raises:
        UsageError: if a nodule cannot be placed.
    """
    made = scene.build(recipe)
    lungs, labels = _masks(made)
    return ChestScan(
        recipe=recipe,
        frame=made.frame.written,
        hu=render.render(made),
        lungs=lungs,
        nodule_labels=labels,
        nodules=tuple(_measured(made, one, k + 1) for k, one in enumerate(made.nodules)),
        others=tuple(
            TrueFinding(one.what, _rounded(made.frame.world(one.centre)), round(one.diameter_mm, 4))
            for one in made.others
        ),
    )


def write_scan(
    scan: ChestScan, folder: Path, name: str, form: Format = "mhd", masks: Path | None = None
) -> Path:
    """Write the voxels as `folder/NAME`, and into `masks`, where given, `lungs/NAME.mhd` and `nodules/NAME.mhd`.

    Returns the file, or for "dicom" the folder, that holds the voxels.

    Raises:
        UsageError: if the form is unknown or nothing can be written there.
        OSError: if a file could not be written whole.
    """
    make_output(folder)
    if masks is not None:
        for kind, labels in (("lungs", scan.lungs), ("nodules", scan.nodule_labels)):
            write_metaimage(make_output(masks / kind) / f"{name}.mhd", labels, scan.frame, compress=True)
    if form in ("mhd", "zraw"):
        return write_metaimage(folder / f"{name}.mhd", scan.hu, scan.frame, compress=form == "zraw")
    if form == "nifti":
        return write_nifti(folder / f"{name}.nii.gz", scan.hu, scan.frame)
    if form == "dicom":
        write_dicom_series(folder / name, scan.hu, scan.frame, scan.recipe.series_uid)
        return folder / name
    raise UsageError(f"format {form!r} unknown; known: mhd, zraw, nifti, dicom")


def _masks(made: Scene) -> tuple[Labels, Labels]:
    """Lungs with airways, and nodules, of the voxels whose centre lies within."""
    frame = made.frame
    shape, spacing = frame.recipe.shape, frame.recipe.spacing_mm
    lungs = np.zeros(shape, np.uint8)
    sides = np.where(made.body.lower < 2.5, np.float32(-1), np.float32(1))
    for k in range(shape[0]):
        plane = render.Plane(frame, (k + 0.5) * spacing[0])
        inside = plane.of(made.body.lung) < 0
        lungs[k][inside] = np.where(plane.of(sides) < 0, RIGHT_LUNG, LEFT_LUNG)[inside]
    air = np.zeros(shape, np.float32)
    draw_tubes(air, made.pipes.trachea, (0.0, 0.0, 0.0), spacing)
    lungs[air > 0.5] = AIRWAY
    labels = np.zeros(shape, np.uint8)
    for number, nodule in enumerate(made.nodules, 1):
        box, inside = _inside(made, nodule, spacing)
        labels[box][inside] = number
    turned = tuple(slice(None, None, -1) if flip else slice(None) for flip in frame.flips)
    return np.ascontiguousarray(lungs[turned]), np.ascontiguousarray(labels[turned])


def _inside(
    made: Scene, nodule: Finding, step: tuple[float, float, float]
) -> tuple[tuple[slice, ...], npt.NDArray[np.bool_]]:
    """The box of places `(i + 0.5) * step` around a nodule's body, and which lie in it: in the body and the lung."""
    blob = nodule.blobs[0]
    extent = made.frame.recipe.extent_mm
    box = tuple(
        slice(
            max(0, floor((c - blob.reach_mm) / s)),
            min(floor(length / s + 1e-6), ceil((c + blob.reach_mm) / s)),
        )
        for c, s, length in zip(blob.centre, step, extent, strict=True)
    )
    axes = [(np.arange(b.start, b.stop) + 0.5) * s for b, s in zip(box, step, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    lung = made.frame.at(made.body.lung, np.stack([z, y, x], axis=-1))
    return box, (blob.distance(z, y, x) <= 0) & (lung <= 0)


def _measured(made: Scene, nodule: Finding, label: int) -> TrueFinding:
    """The truth of a nodule, from places much finer than voxels."""
    spec = nodule.spec
    assert spec is not None
    fine = spec.diameter_mm / _FINE
    box, inside = _inside(made, nodule, (fine, fine, fine))
    places = np.argwhere(inside) + [b.start for b in box] + np.full(3, 0.5)
    volume = len(places) * fine**3
    return TrueFinding(
        what="nodule",
        centre_mm=_rounded(made.frame.world(places.mean(axis=0) * fine)),
        diameter_mm=round(float(np.cbrt(6 * volume / np.pi)), 4),
        label=label,
        volume_mm3=round(volume, 3),
        kind=spec.kind,
        margin=spec.margin,
        place=spec.place,
        hu=round(nodule.blobs[0].hu, 1),
    )


def _rounded(point: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = (round(v, 6) for v in point)
    return x, y, z
