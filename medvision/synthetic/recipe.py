"""What a synthetic slide is made of: everything that a render depends on, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

import numpy as np

from medvision.core.errors import UsageError
from medvision.synthetic.noise import key

Metastases = Literal["none", "itc", "micro", "macro"]
"""A slide's largest metastasis: isolated tumour cells (< 0.2 mm), micro- (0.2 to 2 mm), macrometastasis (> 2 mm)."""

Pattern = Literal["sheet", "nests", "glands"]
"""How a metastasis grows: solid, in islands between strands of stroma, or around lumina."""

Artefact = Literal[
    "pen-black",
    "pen-blue",
    "pen-green",
    "pen-red",
    "fold",
    "defocus",
    "bubble",
    "dust",
    "border-black",
    "border-grey",
]
ARTEFACTS: tuple[str, ...] = get_args(Artefact)

LARGEST_PX = 100_000
"""Longest side of a slide that is drawn; scanners' largest are about this."""


@dataclass(frozen=True, slots=True)
class LesionSpec:
    """One metastasis: centre (row, column) and largest diameter in um, width over length, growth pattern."""

    centre_um: tuple[float, float]
    diameter_um: float
    aspect: float = 0.75
    angle: float = 0.0
    pattern: Pattern = "sheet"


@dataclass(frozen=True, slots=True)
class Stain:
    """Colour of a slide.

    `hematoxylin`, `eosin` and `red` (haemoglobin) are optical densities (R, G, B) of unit concentration, natural
    logarithm. `white` is the colour of the empty slide.
    """

    hematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    red: tuple[float, float, float]
    white: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scanner:
    """Optics and sensor: blur (standard deviation of the point spread, um), sharpening gain, noise (grey levels)."""

    blur_um: float
    sharpen: float
    noise: float
    quality: int


# Vectors estimated after Macenko et al. (ISBI 2009) on CAMELYON16 and CAMELYON17 images; see docs/synthetic.md.
STAINS: dict[str, Stain] = {
    "plum": Stain((0.51, 0.75, 0.43), (0.27, 0.80, 0.53), (0.10, 0.75, 0.62), (252, 248, 249)),
    "violet": Stain((0.62, 0.74, 0.26), (0.28, 0.91, 0.31), (0.08, 0.86, 0.42), (244, 226, 246)),
    "indigo": Stain((0.64, 0.73, 0.24), (0.28, 0.91, 0.32), (0.08, 0.84, 0.40), (238, 222, 244)),
    "slate": Stain((0.62, 0.66, 0.43), (0.38, 0.82, 0.42), (0.20, 0.78, 0.60), (249, 243, 248)),
    "mauve": Stain((0.69, 0.66, 0.31), (0.28, 0.91, 0.30), (0.06, 0.84, 0.40), (240, 228, 243)),
    "russet": Stain((0.58, 0.73, 0.37), (0.30, 0.87, 0.39), (0.12, 0.76, 0.62), (246, 236, 239)),
}

SCANNERS: dict[str, Scanner] = {
    "crisp": Scanner(blur_um=0.27, sharpen=1.3, noise=3.4, quality=85),
    "even": Scanner(blur_um=0.29, sharpen=0.6, noise=2.2, quality=85),
    "soft": Scanner(blur_um=0.38, sharpen=0.2, noise=1.6, quality=80),
}


@dataclass(frozen=True, slots=True)
class SlideRecipe:
    """Everything that decides the pixels of a synthetic lymph-node slide.

    `shape_px` is (rows, columns), each at most `LARGEST_PX`. `lesions`, where given, are drawn as they are; otherwise
    `metastases` says what the seed is to place. `stain` and `scanner` are names of `STAINS` and `SCANNERS`, chosen by
    the seed where None. `strength` scales all dye (0.4 is a faint stain). `artefacts` are names of `ARTEFACTS`, each
    placed by the seed. `mimicry`, from 0 to 1, makes metastases harder to tell: tumour cells are smaller, darker and
    mixed with lymphocytes; clusters of epithelioid histiocytes, and large cells in germinal centres, look like them.
    """

    seed: int
    shape_px: tuple[int, int]
    spacing_um: float = 0.25
    metastases: Metastases = "none"
    lesions: tuple[LesionSpec, ...] | None = None
    stain: str | None = None
    scanner: str | None = None
    strength: float = 1.0
    artefacts: tuple[str, ...] = ()
    mimicry: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shape_px) < 1:
            raise UsageError(f"a slide of {self.shape_px} pixels has no area")
        if max(self.shape_px) > LARGEST_PX:
            raise UsageError(
                f"a slide of {self.shape_px[0]} x {self.shape_px[1]} px is too large to draw: "
                f"at most {LARGEST_PX} px a side"
            )
        if not (isfinite(self.spacing_um) and 0.1 <= self.spacing_um <= 4):
            raise UsageError(f"spacing {self.spacing_um} um is outside what is drawn, 0.1 to 4 um/px")
        if not 0 <= self.mimicry <= 1:
            raise UsageError(f"mimicry {self.mimicry} lies outside 0 to 1")
        if self.metastases not in get_args(Metastases):
            raise UsageError(
                f"metastases {self.metastases!r} unknown; known: {', '.join(get_args(Metastases))}"
            )
        if self.stain is not None and self.stain not in STAINS:
            raise UsageError(f"stain {self.stain!r} unknown; known: {', '.join(STAINS)}")
        if self.scanner is not None and self.scanner not in SCANNERS:
            raise UsageError(f"scanner {self.scanner!r} unknown; known: {', '.join(SCANNERS)}")
        for name in self.artefacts:
            if name not in ARTEFACTS:
                raise UsageError(f"artefact {name!r} unknown; known: {', '.join(ARTEFACTS)}")

    @property
    def extent_um(self) -> tuple[float, float]:
        """Height and width of the slide."""
        return self.shape_px[0] * self.spacing_um, self.shape_px[1] * self.spacing_um

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator for decisions about the whole slide, one for each purpose."""
        return np.random.Generator(np.random.Philox(key=key(self.seed, 0xC0FFEE, purpose)))


def demo_recipes(seed: int = 0) -> list[SlideRecipe]:
    """Four slides: two normal, one with a macro- and micrometastasis, one with micrometastases; four stains."""
    lesions = (
        LesionSpec((1130.0, 1330.0), 2350.0, 0.50, 0.08, "nests"),
        LesionSpec((420.0, 880.0), 330.0, 0.75, 0.4, "sheet"),
    )
    return [
        SlideRecipe(key(seed, 1) % 2**31, (8192, 8192), stain="plum", scanner="crisp"),
        SlideRecipe(
            key(seed, 2) % 2**31, (8192, 9216), stain="violet", scanner="even", artefacts=("pen-green",)
        ),
        SlideRecipe(key(seed, 3) % 2**31, (8704, 11264), lesions=lesions, stain="mauve", scanner="even"),
        SlideRecipe(key(seed, 4) % 2**31, (8192, 9216), metastases="micro", stain="russet", scanner="soft"),
    ]
