"""`medvision synthesize`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvision.cli.console import print_made


def synthesize(
    *,
    out: Path,
    size: int = 10_000,
    seed: int = 1,
    metastases: Literal["none", "itc", "micro", "macro"] = "macro",
) -> int:
    """Write a synthetic H&E lymph-node slide with its truth: a tiled pyramid, ASAP XML and a mask.

    Example: medvision synthesize --out slides --size 30000 --seed 7 --metastases micro

    Parameters
    ----------
    out
        Folder for the files; made when absent.
    size
        Side of the slide in pixels at 0.25 µm.
    seed
        The same seed gives the same bytes.
    metastases
        Largest class of metastasis on the slide.
    """
    from medvision.synthetic import SlideRecipe, write_synthetic_slide

    recipe = SlideRecipe(seed=seed, shape_px=(size, size), metastases=metastases)
    made = write_synthetic_slide(recipe, out)
    print_made("slide", made.slide)
    print_made("truth", made.annotation)
    print_made("mask", made.mask)
    return 0
