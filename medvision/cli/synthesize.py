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
    metastases: Literal["none", "itc", "micro", "macro"] = "micro",
    artefacts: tuple[str, ...] = (),
    stain: str | None = None,
    name: str | None = None,
) -> int:
    """Write a synthetic H&E lymph-node slide with its truth: a tiled pyramid, ASAP XML and a mask.

    Example: medvision synthesize --out slides --size 30000 --seed 7 --metastases macro --artefacts pen-blue fold

    Parameters
    ----------
    out
        Folder for the files; made when absent.
    size
        Side of the slide in pixels at 0.25 µm; at most 100000.
    seed
        The same seed gives the same bytes.
    metastases
        Largest class of metastasis on the slide; macro needs a size of 14000 or more.
    artefacts
        Any of pen-black, pen-blue, pen-green, pen-red, fold, defocus, bubble, dust, border-black, border-grey.
    stain
        plum, violet, indigo, slate, mauve or russet. Default: chosen by the seed.
    name
        File name without its ending. Default: synthetic_SEED.
    """
    from medvision.synthetic import SlideRecipe, write_synthetic_slide

    recipe = SlideRecipe(
        seed=seed, shape_px=(size, size), metastases=metastases, stain=stain, artefacts=artefacts
    )
    made = write_synthetic_slide(recipe, out, name)
    print_made("slide", made.slide)
    print_made("truth", made.annotation)
    print_made("mask", made.mask)
    return 0
