"""What a synthetic chest CT is made of: everything that a render depends on, frozen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import ceil, exp, isfinite, log
from typing import Literal, get_args

import numpy as np

from medvision.core.errors import UsageError
from medvision.synthetic.noise import key

Kind = Literal["solid", "part-solid", "ground-glass", "calcified"]
"""What a nodule consists of."""
Margin = Literal["smooth", "lobulated", "spiculated"]
Place = Literal["parenchyma", "juxtapleural", "juxtavascular"]
"""Where a nodule lies: free in the lung, on the pleura, or on a vessel."""
Orientation = Literal["LPS", "RPS", "LAS", "RAS", "LPI", "RPI", "LAI", "RAI"]
"""Where column, row and slice numbers increase to: Left or Right, Posterior or Anterior, Superior or Inferior."""
KernelName = Literal["soft", "standard", "sharp"]
SizeName = Literal["small", "standard", "adult"]

LARGEST_VOXELS = 512 * 512 * 800
"""The largest volume that is drawn: 400 MB as int16."""
SMALLEST_MM, LARGEST_MM = 3.0, 30.0
"""Diameters of nodules: below is a micronodule, above a mass."""


@dataclass(frozen=True, slots=True)
class NoduleSpec:
    """One nodule: diameter of the sphere of equal volume, and kind, margin and place.

    `centre_mm` is the place in the world (x, y, z), LPS; where None, the seed finds one that fits `place`.
    """

    diameter_mm: float
    kind: Kind = "solid"
    margin: Margin = "smooth"
    place: Place = "parenchyma"
    centre_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.diameter_mm) and SMALLEST_MM <= self.diameter_mm <= LARGEST_MM):
            raise UsageError(
                f"a nodule of {self.diameter_mm} mm is outside what is drawn, {SMALLEST_MM:g} to {LARGEST_MM:g} mm"
            )
        _check("kind", self.kind, get_args(Kind))
        _check("margin", self.margin, get_args(Margin))
        _check("place", self.place, get_args(Place))


@dataclass(frozen=True, slots=True)
class Kernel:
    """A reconstruction: blur (standard deviation of the point spread, mm), edge enhancement, noise at full dose (HU).

    `peak` is the frequency in 1/mm at which the noise has most of its power.
    """

    blur_mm: float
    enhance: float
    noise_hu: float
    peak: float


KERNELS: dict[str, Kernel] = {
    "soft": Kernel(blur_mm=0.62, enhance=0.0, noise_hu=9.0, peak=0.20),
    "standard": Kernel(blur_mm=0.50, enhance=0.15, noise_hu=16.0, peak=0.30),
    "sharp": Kernel(blur_mm=0.40, enhance=0.55, noise_hu=32.0, peak=0.45),
}


@dataclass(frozen=True, slots=True)
class Size:
    """Ranges that a sampled scan is drawn from, in mm: body width, voxel side in plane, distances of slices."""

    width_mm: tuple[float, float]
    in_plane_mm: tuple[float, float]
    slices_mm: tuple[float, ...]
    nodule_mm: tuple[float, float]


# A standard thorax is that of a small child, so that its scan is a sixth of an adult's; nodules keep their size.
SIZES: dict[str, Size] = {
    "small": Size((136.0, 150.0), (1.5, 1.65), (1.5, 2.0), (5.0, 14.0)),
    "standard": Size((186.0, 212.0), (0.74, 0.90), (0.8, 1.0, 1.25, 1.5, 2.0, 2.5), (3.0, 25.0)),
    "adult": Size((315.0, 375.0), (0.66, 0.80), (0.8, 1.0, 1.25, 1.5, 2.0, 2.5), (3.0, 30.0)),
}


@dataclass(frozen=True, slots=True)
class ChestRecipe:
    """Everything that decides the voxels of a synthetic chest CT.

    `shape` is (slices, rows, columns), `spacing_mm` the voxel's sides in that order. `width_mm` is the body's width
    without arms; the rest of the anatomy follows in proportion. `dose` is relative: noise goes with its inverse root.
    `tilt_deg` turns the patient about the long axis, from side to side, and from front to back. `contrast_hu` is what
    contrast medium adds to blood. `padded` sets what lies outside the circle of reconstruction to -3024, as some
    scanners do. `distractors` scales the number of findings that are no nodules.
    """

    seed: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    width_mm: float
    nodules: tuple[NoduleSpec, ...] = ()
    kernel: KernelName = "standard"
    dose: float = 1.0
    tilt_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orientation: Orientation = "LPS"
    contrast_hu: float = 0.0
    padded: bool = False
    distractors: float = 1.0

    def __post_init__(self) -> None:
        if min(self.shape) < 16:
            raise UsageError(f"a scan of {self.shape} voxels is too small to draw: at least 16 a side")
        if int(np.prod(self.shape, dtype=np.int64)) > LARGEST_VOXELS:
            raise UsageError(f"a scan of {self.shape} voxels is too large to draw: at most {LARGEST_VOXELS}")
        if not all(isfinite(side) and 0.3 <= side <= 5 for side in self.spacing_mm):
            raise UsageError(f"spacing {self.spacing_mm} mm is outside what is drawn, 0.3 to 5 mm")
        if not (isfinite(self.width_mm) and 100 <= self.width_mm <= 500):
            raise UsageError(f"a body {self.width_mm} mm wide is outside what is drawn, 100 to 500 mm")
        if not (isfinite(self.dose) and 0.02 <= self.dose <= 10):
            raise UsageError(f"dose {self.dose} is outside what is drawn, 0.02 to 10")
        if not all(abs(angle) <= 20 for angle in self.tilt_deg):
            raise UsageError(f"tilt {self.tilt_deg} is outside what is drawn, -20 to 20 degrees")
        if not 0 <= self.contrast_hu <= 400:
            raise UsageError(f"contrast of {self.contrast_hu} HU is outside what is drawn, 0 to 400")
        if not 0 <= self.distractors <= 5:
            raise UsageError(f"distractors {self.distractors} lies outside 0 to 5")
        _check("kernel", self.kernel, tuple(KERNELS))
        _check("orientation", self.orientation, get_args(Orientation))

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Length of the volume along slices, rows and columns."""
        z, y, x = (n * side for n, side in zip(self.shape, self.spacing_mm, strict=True))
        return z, y, x

    @property
    def series_uid(self) -> str:
        """A valid DICOM UID made from the recipe (root 2.25), so that other voxels have another name."""
        digest = hashlib.sha256(repr(self).encode()).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator for decisions about the whole scan, one for each purpose."""
        return np.random.Generator(np.random.Philox(key=key(self.seed, 0xC7, purpose)))


def sample_recipe(
    seed: int,
    size: SizeName = "standard",
    *,
    nodules: tuple[int, int] = (0, 6),
    spacing_mm: tuple[float, float] | None = None,
    kernel: KernelName | None = None,
    dose: float | None = None,
    orientation: Orientation | None = None,
) -> ChestRecipe:
    """A scan drawn at random by `seed`: patient, scanner, position, and from `nodules[0]` to `nodules[1]` nodules.

    What is given stands; `spacing_mm` is (slice distance, side in plane). Nodule diameters are log-normal with a median
    of 6.5 mm, as LUNA16's are, within what the size of the body allows.

    Raises:
        UsageError: if a name is unknown or a value lies outside what is drawn.
    """
    _check("size", size, tuple(SIZES))
    low, high = nodules
    if not 0 <= low <= high <= 40:
        raise UsageError(f"from {low} to {high} nodules is no range within 0 to 40")
    ranges = SIZES[size]
    rng = np.random.Generator(np.random.Philox(key=key(seed, 0xC7E57)))
    width = round(float(rng.uniform(*ranges.width_mm)), 1)
    in_plane = round(float(rng.uniform(*ranges.in_plane_mm)), 3)
    between = float(ranges.slices_mm[rng.integers(len(ranges.slices_mm))])
    if spacing_mm is not None:
        between, in_plane = spacing_mm
    if not all(isfinite(side) and side > 0 for side in (between, in_plane)):
        raise UsageError(f"spacing {between} x {in_plane} mm cannot be")
    side = ceil(width / 0.93 / in_plane)
    slices = ceil(0.80 * width / between)
    kernels: tuple[KernelName, ...] = get_args(KernelName)
    drawn_kernel = kernels[int(rng.choice(len(kernels), p=(0.25, 0.5, 0.25)))]
    drawn_dose = round(exp(float(rng.uniform(log(0.25), log(1.5)))), 2)
    angles = np.round(rng.normal(0, (3.0, 1.5, 2.0)).clip(-8, 8), 1)
    orientations: tuple[Orientation, ...] = get_args(Orientation)
    turned = orientations[
        int(rng.choice(len(orientations), p=(0.6, 0.02, 0.02, 0.16, 0.14, 0.02, 0.02, 0.02)))
    ]
    contrast = round(float(rng.uniform(60, 160)), 0) if rng.random() < 0.3 else 0.0
    padded = bool(rng.random() < 0.25)
    count = int(rng.integers(low, high + 1))
    return ChestRecipe(
        seed=seed,
        shape=(slices, side, side),
        spacing_mm=(between, in_plane, in_plane),
        width_mm=width,
        nodules=tuple(_nodule(rng, ranges.nodule_mm) for _ in range(count)),
        kernel=kernel or drawn_kernel,
        dose=drawn_dose if dose is None else dose,
        tilt_deg=(float(angles[0]), float(angles[1]), float(angles[2])),
        orientation=orientation or turned,
        contrast_hu=contrast,
        padded=padded,
    )


def without_nodules(recipe: ChestRecipe) -> ChestRecipe:
    """The same patient and scanner without any nodule."""
    return replace(recipe, nodules=())


def _nodule(rng: np.random.Generator, within: tuple[float, float]) -> NoduleSpec:
    diameter = float(np.clip(exp(rng.normal(log(6.5), 0.5)), *within))
    kinds: tuple[Kind, ...] = get_args(Kind)
    margins: tuple[Margin, ...] = get_args(Margin)
    places: tuple[Place, ...] = get_args(Place)
    kind = kinds[int(rng.choice(4, p=(0.62, 0.12, 0.16, 0.10)))]
    # A part-solid nodule of 4 mm could not be told from a solid one, nor spicules at 4 mm from a vessel.
    if diameter < 6 and kind == "part-solid":
        kind = "solid"
    margin = margins[int(rng.choice(3, p=(0.5, 0.3, 0.2) if diameter >= 7 else (0.8, 0.2, 0.0)))]
    place = places[int(rng.choice(3, p=(0.5, 0.28, 0.22)))]
    return NoduleSpec(round(diameter, 2), kind, margin, place)


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{what} {value!r} unknown; known: {', '.join(known)}")
