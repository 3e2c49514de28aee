"""`medvision study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from medvision.cli.console import console, print_check, print_made

if TYPE_CHECKING:
    from medvision.training.transfer import Part

app = App(
    name="study",
    help="Compare ways of training. Example: medvision study transfer --config configs/study-transfer.yaml --out out",
)


@app.command
def transfer(*, config: Path, out: Path, data: Path | None = None) -> int:
    """Measure what a pretrained trunk is worth on few images: against random weights, over several seeds.

    For each transfer, number of images per class and seed, each way of training learns from the same images for the
    same number of steps and answers the same test images. Parts that are done are kept.
    Example: medvision study transfer --config configs/study-transfer.yaml --out out/transfer

    Parameters
    ----------
    config
        YAML file of parameters; see configs/study-transfer.yaml.
    out
        Folder for the table (CSV, JSON, Markdown), the page and the parts; an interrupted study continues there.
    data
        Folder in which the configuration's paths lie, in place of the one that it names.
    """
    from medvision.evaluations.page import terminal_table, write_page
    from medvision.evaluations.transfer_page import describe
    from medvision.training.transfer import study_transfer
    from medvision.training.transfer_config import read_transfer_config

    read = read_transfer_config(config, data)
    page = describe(study_transfer(read, out, _print_part, print_check), read)
    console.print(terminal_table(page))
    made = {f"{read.name}.csv": out / f"{read.name}.csv"} | write_page(page, out)
    for path in made.values():
        print_made(path.suffix[1:], path)
    return 0


def _print_part(part: Part, done: int, total: int) -> None:
    figures = "  ".join(f"{name} {value:.3f}" for name, value in part.figures.items())
    console.print(
        f"{done:4d} of {total}  {part.transfer}  {part.images_per_class:4d} per class  seed {part.seed}  "
        f"{part.arm:>16}  {figures}  {part.seconds:.0f} s",
        markup=False,
        soft_wrap=True,
    )
