"""A scene to HU: tissue plane by plane, tubes and findings over it, then the scanner.

Slabs of slices are drawn one after another, so that memory does not grow with the scan; a slice's values do not depend
on the slab it is drawn in.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
import numpy.typing as npt

from medvision.synthetic.chest import skeleton
from medvision.synthetic.chest.blobs import Blob
from medvision.synthetic.chest.body import BLOOD_HU
from medvision.synthetic.chest.findings import Finding
from medvision.synthetic.chest.frame import Frame, Triple
from medvision.synthetic.chest.scanner import Scanner
from medvision.synthetic.chest.scene import Scene
from medvision.synthetic.chest.tubes import draw_tubes
from medvision.synthetic.noise import Image, smooth

Volume = npt.NDArray[np.int16]

_SLAB_VOXELS = 8_000_000
_AIR_HU, _SKIN_HU, _WALL_HU, _FISSURE_HU = -1000.0, 25.0, -10.0, -420.0
_CORTEX_HU, _MARROW_HU, _CARTILAGE_HU = 620.0, 190.0, 110.0
_SKIN_MM, _CORTEX_MM, _FISSURE_MM = 1.6, 1.1, 0.5
_EMPTY = -3024
"""What some scanners write outside the circle of reconstruction."""


def render(scene: Scene) -> Volume:
    """The whole scan, `(slices, rows, columns)` of HU, as the recipe orients it."""
    recipe = scene.frame.recipe
    volume = np.empty(recipe.shape, np.int16)
    scanner = Scanner(scene.frame, scene.body)
    planes = recipe.shape[1] * recipe.shape[2] * scene.frame.parts
    deep = max(4, _SLAB_VOXELS // planes)
    for first in range(0, recipe.shape[0], deep):
        last = min(first + deep, recipe.shape[0])
        volume[first:last] = render_slices(scene, first, last, scanner)
    turned = tuple(slice(None, None, -1) if flip else slice(None) for flip in scene.frame.flips)
    return np.ascontiguousarray(volume[turned])


def render_slices(scene: Scene, first: int, last: int, scanner: Scanner | None = None) -> Volume:
    """Slices `first` to `last`, before any flip."""
    frame = scene.frame
    scanner = scanner or Scanner(frame, scene.body)
    halo = scanner.halo
    low, high = first * frame.parts - halo, last * frame.parts + halo
    hu = scanner.scan(_tissue(scene, low, high), first, last)
    values = np.rint(hu, out=hu).clip(-1024, 3071).astype(np.int16)
    if frame.recipe.padded:
        values[:, _outside_circle(frame)] = _EMPTY
    return values


def _tissue(scene: Scene, low: int, high: int) -> Image:
    """HU without blur or noise of the drawn slices `low` to `high`; those beyond the volume repeat its ends."""
    frame, body = scene.frame, scene.body
    rows, columns = frame.recipe.shape[1:]
    step = frame.step
    corner = (low * step[0], 0.0, 0.0)
    shape = (high - low, rows, columns)

    def cover(*tubes: tuple[npt.NDArray[np.float64], float]) -> Image:
        share = np.zeros(shape, np.float32)
        for group, flat in tubes:
            draw_tubes(share, group, corner, step, flat)
        return share

    bones, pipes = scene.bones, scene.pipes
    cortex = _CORTEX_MM * scene.who.scale**0.5
    hard = cover((bones.flat, skeleton.FLAT), (bones.round, 1.0))
    inner = (skeleton.shrunk(bones.flat, cortex), skeleton.FLAT), (skeleton.shrunk(bones.round, cortex), 1.0)
    marrow = cover(*inner)
    gristle = cover((bones.cartilage, skeleton.FLAT))
    great = cover((pipes.great, 1.0))
    blood = np.float32(BLOOD_HU + frame.recipe.contrast_hu)
    hu = np.empty(shape, np.float32)
    backdrop = _table(scene)
    for k in range(high - low):
        plane = Plane(frame, (low + k + 0.5) * step[0])
        h = hu[k]
        h[:] = backdrop
        skin = plane.of(body.skin)
        if float(skin.min()) > step[1]:
            continue
        thick = _SKIN_MM * scene.who.scale**0.5
        _over(h, plane.share(skin), np.float32(_SKIN_HU))
        _over(h, plane.share(skin + thick), plane.of(body.soft))
        _over(h, great[k], blood)
        spine = plane.of(body.bone)
        _over(h, plane.share(spine), np.float32(0.7 * _CORTEX_HU))
        _over(h, plane.share(spine + cortex), np.float32(_MARROW_HU))
        _over(h, gristle[k], np.float32(_CARTILAGE_HU))
        _over(h, hard[k], np.float32(_CORTEX_HU))
        _over(h, marrow[k], np.float32(_MARROW_HU))
        lung = plane.of(body.lung)
        inside = plane.share(lung)
        _over(h, inside, plane.of(body.parenchyma))
        sheet = (1 - np.abs(plane.of(body.fissure)) / step[1]).clip(0, 1) * min(1.0, _FISSURE_MM / step[1])
        _over(h, np.asarray(inside * sheet, np.float32), np.float32(_FISSURE_HU))
    del hard, marrow, gristle, great
    _over(hu, cover((pipes.wall, 1.0)), np.float32(_WALL_HU))
    _over(hu, cover((pipes.blood, 1.0)), blood)
    _over(hu, cover((pipes.lumen, 1.0)), np.float32(_AIR_HU + 5))
    for finding in scene.everything:
        _draw_finding(hu, finding, corner, step)
    return hu


class Plane:
    """Lattice fields on the pixels of one drawn slice, at height `z` mm."""

    def __init__(self, frame: Frame, z: float) -> None:
        self.size = frame.recipe.shape[2], frame.recipe.shape[1]
        self.width = np.float32(frame.step[1])
        at = min(max(z / frame.lattice_step[0] - 0.5, 0.0), frame.lattice_shape[0] - 1.0)
        self.below = min(floor(at), frame.lattice_shape[0] - 2)
        self.part = np.float32(at - self.below)

    def of(self, field: Image) -> Image:
        """The field's values."""
        import cv2

        a, b = field[self.below], field[self.below + 1]
        return np.asarray(cv2.resize(a + self.part * (b - a), self.size, interpolation=cv2.INTER_LINEAR))

    def share(self, distance: Image) -> Image:
        """How much of each pixel lies inside."""
        return np.asarray((np.float32(0.5) - distance / self.width).clip(0, 1))


def _over(hu: Image, share: Image, value: Image | np.float32) -> None:
    """Lay `value` over `hu` where `share` says, in place."""
    hu += share * (value - hu)


def _table(scene: Scene) -> Image:
    """One plane of air with the table: a curved carbon shell around foam, under the back."""
    frame = scene.frame
    rows, columns = frame.recipe.shape[1:]
    _, sy, sx = frame.step
    scale = scene.who.scale
    occupied = np.flatnonzero((scene.body.skin < 0).any(axis=(0, 2)))
    back = (occupied[-1] + 1.0) * frame.lattice_step[1] + 1.0
    y = ((np.arange(rows) + 0.5) * sy)[:, None]
    x = ((np.arange(columns) + 0.5) * sx)[None, :] - columns * sx / 2
    top = y - (back - x**2 / (2 * 420 * scale))
    thick = 26 * scale * np.sqrt((1 - (x / (215 * scale)) ** 2).clip(0, None))
    inside = np.maximum(-top, top - thick)
    plane = np.full((rows, columns), _AIR_HU, np.float32)
    shell = (0.5 - inside / sy).clip(0, 1)
    foam = (0.5 - (inside + 2.0 * scale**0.5) / sy).clip(0, 1)
    _over(plane, np.asarray(shell, np.float32), np.float32(-180))
    _over(plane, np.asarray(foam, np.float32), np.float32(-940))
    return plane


def _draw_finding(hu: Image, finding: Finding, corner: Triple, step: Triple) -> None:
    if len(finding.strands):
        ends = finding.strands[:, :6].reshape(-1, 3)
        box = _box(hu.shape, ends.min(axis=0) - 2, ends.max(axis=0) + 2, corner, step)
        if box is not None:
            part = hu[box]
            share = np.zeros(part.shape, np.float32)
            near = tuple(c + s.start * side for c, s, side in zip(corner, box, step, strict=True))
            draw_tubes(share, finding.strands, (near[0], near[1], near[2]), step)
            np.maximum(part, part + share * (np.float32(finding.strand_hu) - part), out=part)
    for blob in finding.blobs:
        _draw_blob(hu, blob, corner, step)


def _draw_blob(hu: Image, blob: Blob, corner: Triple, step: Triple) -> None:
    """Lay a blob over what is less dense: vessels and walls show through ground glass."""
    reach = blob.reach_mm + blob.edge_mm + max(step)
    box = _box(hu.shape, blob.centre - reach, blob.centre + reach, corner, step)
    if box is None:
        return
    z, y, x = np.meshgrid(
        *(
            (np.arange(s.start, s.stop) + 0.5) * side + c
            for s, side, c in zip(box, step, corner, strict=True)
        ),
        indexing="ij",
    )
    share = (0.5 - blob.distance(z, y, x) / max(step[1], blob.edge_mm)).clip(0, 1)
    value = blob.hu + blob.mottle * smooth(blob.seed, y + 0.61 * z, x - 0.53 * z, 3.0)
    part = hu[box]
    np.maximum(part, (part + share * (value - part)).astype(np.float32), out=part)


def _box(
    shape: tuple[int, ...],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    corner: Triple,
    step: Triple,
) -> tuple[slice, slice, slice] | None:
    """The voxels between two places, or None where there are none."""
    slices = [
        slice(max(0, floor((a - c) / s)), min(n, ceil((b - c) / s)))
        for a, b, c, s, n in zip(low, high, corner, step, shape, strict=True)
    ]
    if any(s.stop <= s.start for s in slices):
        return None
    return slices[0], slices[1], slices[2]


def _outside_circle(frame: Frame) -> npt.NDArray[np.bool_]:
    rows, columns = frame.recipe.shape[1:]
    y = np.arange(rows)[:, None] - (rows - 1) / 2
    x = np.arange(columns)[None, :] - (columns - 1) / 2
    return np.asarray(y**2 + x**2 > (min(rows, columns) / 2) ** 2)
