"""`medvision synthesize`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from medvision.cli.console import console, print_made

app = App(name="synthesize", help="Write synthetic H&E slides, or chest CT scans, with their truth.")


@app.default
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
    """Write a synthetic H&E lymph-node slide with its truth: a tiled pyramid, ASAP XML and two masks.

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
    print_made("classes", made.classes)
    return 0


@app.command
def cohort(*, config: Path, out: Path, workers: int | None = None) -> int:
    """Write a cohort of synthetic slides: slides, outlines, masks and a manifest with patients and splits.

    A run that was broken off continues. Example: medvision synthesize cohort --config configs/cohort.yaml --out cohort

    Parameters
    ----------
    config
        YAML file that says what slides to make; see configs/cohort.yaml.
    out
        Folder for `cohort.csv` and the slides; made when absent.
    workers
        Slides drawn at a time. Default: one per core.
    """
    from medvision.synthetic.cohort import PlannedSlide, write_cohort_slides
    from medvision.synthetic.cohort_config import read_cohort_config

    def show(slide: PlannedSlide, done: int, total: int) -> None:
        recipe = slide.recipe
        what = "normal" if recipe.metastases == "none" else recipe.metastases
        console.print(f"{done:3d} of {total}  {slide.slide_id}  {what}  {recipe.stain}", markup=False)

    made = write_cohort_slides(read_cohort_config(config), out, workers, show)
    console.print(f"{len(made.slides)} slides; {made.check_disjoint()}", markup=False)
    print_made("cohort", made.source)
    return 0


@app.command
def chest(
    *,
    out: Path,
    scans: int = 1,
    seed: int = 1,
    size: Literal["small", "standard", "adult"] = "standard",
    nodules: tuple[int, int] = (0, 6),
    format: Literal["mhd", "zraw", "nifti", "dicom"] = "mhd",
    spacing: tuple[float, float] | None = None,
    kernel: Literal["soft", "standard", "sharp"] | None = None,
    dose: float | None = None,
    folds: int = 10,
    workers: int | None = None,
) -> int:
    """Write synthetic chest CT scans with their nodules, in the layout and the tables of LUNA16.

    A run that was broken off continues. Example: medvision synthesize chest --out chest --scans 40 --seed 1

    Parameters
    ----------
    out
        Folder for the scans, masks and tables; made when absent.
    scans
        How many; a larger number begins with the same scans.
    seed
        The same seed gives the same bytes.
    size
        small: about 96 x 96 x 70 voxels, for smoke tests; standard: a small child, about 256 x 256 x 160; adult: about
        500 x 500 x 250.
    nodules
        Least and largest number of nodules in a scan.
    format
        MetaImage as in LUNA16, plain (mhd) or compressed (zraw), NIfTI, or a folder of DICOM files for each scan.
    spacing
        Distance of slices and side of a pixel in mm. Default: drawn for each scan.
    kernel
        Reconstruction, which decides sharpness and noise. Default: drawn for each scan.
    dose
        Relative dose; noise goes with its inverse root. Default: drawn for each scan, 0.25 to 1.5.
    folds
        Folders subset0, subset1, ... that the scans are dealt into.
    workers
        Scans drawn at a time. Default: one per core.
    """
    from medvision.synthetic.chest.cohort import ChestCohort, PlannedScan, write_chest_cohort

    def show(scan: PlannedScan, done: int, total: int) -> None:
        recipe = scan.recipe
        voxels = " x ".join(map(str, recipe.shape))
        what = f"{len(recipe.nodules)} nodules  {recipe.kernel}  {recipe.orientation}"
        console.print(
            f"{done:3d} of {total}  {scan.subset}/{scan.uid}  {voxels}  {what}", markup=False, soft_wrap=True
        )

    cohort = ChestCohort(
        scans=scans,
        seed=seed,
        size=size,
        nodules=nodules,
        folds=folds,
        form=format,
        spacing_mm=spacing,
        kernel=kernel,
        dose=dose,
    )
    planned = write_chest_cohort(cohort, out, workers, show)
    count = sum(len(one.recipe.nodules) for one in planned)
    console.print(f"{len(planned)} scans, {count} nodules", markup=False)
    print_made("scans", out)
    print_made("nodules", out / "annotations.csv")
    return 0
