"""Write a cohort of synthetic chest scans in the layout of LUNA16.

DIR/subset0 ... subset9/UID.mhd, UID.raw     the scans, dealt into ten folds
DIR/masks/lungs/UID.mhd                      3 left lung, 4 right lung, 5 windpipe and main bronchi
DIR/masks/nodules/UID.mhd                    number of the nodule, by rows of annotations.csv
DIR/annotations.csv                          seriesuid,coordX,coordY,coordZ,diameter_mm: the nodules, world mm, LPS
DIR/annotations_excluded.csv                 the same of findings that are none; -1 is no diameter
DIR/seriesuids.csv                           one uid per line, no header
DIR/folds.csv                                seriesuid,fold
DIR/findings.csv                             every finding with kind, margin, place, volume
DIR/recipes.json                             the recipe of every scan
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from medvision.core.errors import UsageError
from medvision.store.files import atomic_write, make_output
from medvision.synthetic.chest.recipe import ChestRecipe, KernelName, SizeName, sample_recipe
from medvision.synthetic.chest.scan import Format, TrueFinding, draw_scan, write_scan
from medvision.synthetic.noise import key
from medvision.synthetic.workers import in_processes

RECIPES = "recipes.json"
_TRUTH = ".truth"
_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
_DETAILS = ("what", "label", "kind", "margin", "place", "volume_mm3", "hu")


@dataclass(frozen=True, slots=True)
class ChestCohort:
    """What a cohort is made from. `nodules` is the least and the largest number in a scan."""

    scans: int
    seed: int = 0
    size: SizeName = "standard"
    nodules: tuple[int, int] = (0, 6)
    folds: int = 10
    form: Format = "mhd"
    spacing_mm: tuple[float, float] | None = None
    kernel: KernelName | None = None
    dose: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.scans <= 10_000:
            raise UsageError(f"{self.scans} scans: from 1 to 10000 are made at a time")
        if not 1 <= self.folds <= 100:
            raise UsageError(f"{self.folds} folds: from 1 to 100 are made")


@dataclass(frozen=True, slots=True)
class PlannedScan:
    """One scan before it is drawn."""

    uid: str
    fold: int
    recipe: ChestRecipe
    form: Format

    @property
    def subset(self) -> str:
        """Folder of its fold."""
        return f"subset{self.fold}"

    @property
    def names(self) -> tuple[str, ...]:
        """Its files from the cohort's folder; for DICOM the folder. The truth is written last."""
        ends = {"mhd": (".mhd", ".raw"), "zraw": (".mhd", ".zraw"), "nifti": (".nii.gz",), "dicom": ("",)}
        masks = [
            f"masks/{kind}/{self.uid}{end}" for kind in ("lungs", "nodules") for end in (".mhd", ".zraw")
        ]
        return (*(f"{self.subset}/{self.uid}{end}" for end in ends[self.form]), *masks, self.truth)

    @property
    def truth(self) -> str:
        """The findings of this scan alone, from which the tables are put together."""
        return f"{_TRUTH}/{self.uid}.json"


def plan_cohort(cohort: ChestCohort) -> list[PlannedScan]:
    """Every scan of a cohort: a function of `cohort` alone. A larger one begins with the same scans.

    Raises:
        UsageError: if a recipe is impossible.
    """
    planned = []
    for number in range(cohort.scans):
        recipe = sample_recipe(
            key(cohort.seed, 0xC7C0, number) % 2**31,
            cohort.size,
            nodules=cohort.nodules,
            spacing_mm=cohort.spacing_mm,
            kernel=cohort.kernel,
            dose=cohort.dose,
        )
        planned.append(PlannedScan(recipe.series_uid, number % cohort.folds, recipe, cohort.form))
    return planned


def write_chest_cohort(
    cohort: ChestCohort,
    folder: Path,
    workers: int | None = None,
    on_scan: Callable[[PlannedScan, int, int], None] | None = None,
) -> list[PlannedScan]:
    """Draw a cohort into `folder`, `workers` scans at a time, one per core by default.

    Scans that a broken-off run of the same parameters has finished are kept. The bytes depend on `cohort` alone.
    `on_scan` is told each scan, how many are done and of how many.

    Raises:
        UsageError: before any work, if a recipe is impossible or nothing can be written into `folder`; or if the lungs
            have no room for the nodules asked for.
        OSError: if a file could not be written whole.
    """
    planned = plan_cohort(cohort)
    make_output(folder)
    make_output(folder / _TRUTH)
    for fold in {one.subset for one in planned}:
        make_output(folder / fold)
    recipes = {one.uid: json.loads(json.dumps({**asdict(one.recipe), "form": one.form})) for one in planned}
    known = _known(folder)
    missing = [one for one in planned if not _finished(folder, one, known, recipes)]
    for one in missing:
        (folder / one.truth).unlink(missing_ok=True)
    # Scans of an earlier, other cohort stay on the disk and in no table.
    atomic_write(folder / RECIPES, (json.dumps(recipes, indent=1) + "\n").encode())
    done = len(planned) - len(missing)
    for one in in_processes(_draw, missing, folder, workers or os.cpu_count() or 1):
        done += 1
        if on_scan is not None:
            on_scan(one, done, len(planned))
    _write_tables(folder, planned)
    return planned


def _draw(one: PlannedScan, folder: Path) -> PlannedScan:
    scan = draw_scan(one.recipe)
    write_scan(scan, folder / one.subset, one.uid, one.form, folder / "masks")
    truth = [asdict(finding) for finding in (*scan.nodules, *scan.others)]
    atomic_write(folder / one.truth, (json.dumps(truth) + "\n").encode())
    return one


def _known(folder: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        known = json.loads((folder / RECIPES).read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def _finished(folder: Path, one: PlannedScan, known: dict[str, object], recipes: dict[str, object]) -> bool:
    same = known.get(one.uid) == recipes[one.uid]
    return same and all((folder / name).exists() for name in one.names)


def _write_tables(folder: Path, planned: Sequence[PlannedScan]) -> None:
    findings = {one.uid: list(_findings(folder / one.truth)) for one in planned}
    for name, wanted in (("annotations.csv", True), ("annotations_excluded.csv", False)):
        rows = [_row(uid, f) for uid, of in findings.items() for f in of if (f.what == "nodule") == wanted]
        _write_csv(folder / name, _COLUMNS, rows)
    details = [
        (*_row(uid, f), *(getattr(f, name) for name in _DETAILS)) for uid, of in findings.items() for f in of
    ]
    _write_csv(folder / "findings.csv", (*_COLUMNS, *_DETAILS), details)
    _write_csv(folder / "seriesuids.csv", None, [(one.uid,) for one in planned])
    _write_csv(folder / "folds.csv", ("seriesuid", "fold"), [(one.uid, one.subset) for one in planned])


def _findings(path: Path) -> Iterator[TrueFinding]:
    for fields in json.loads(path.read_text(encoding="utf-8")):
        x, y, z = fields.pop("centre_mm")
        yield TrueFinding(centre_mm=(x, y, z), **fields)


def _row(uid: str, finding: TrueFinding) -> tuple[object, ...]:
    diameter = finding.diameter_mm if finding.diameter_mm > 0 else -1
    return (uid, *finding.centre_mm, diameter)


def _write_csv(path: Path, header: Sequence[str] | None, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header is not None:
        writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())
