"""`medvision evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from medvision.cli.console import console, print_made

app = App(
    name="evaluate",
    help=(
        "Score predictions by a benchmark's official protocol.\n\n"
        "Example: medvision evaluate camelyon16 --predictions results --reference truth --out scores"
    ),
)


@app.command
def camelyon16(
    *,
    predictions: Path,
    reference: Path,
    out: Path,
    protocol: Literal["official", "corrected"] = "official",
    slide_spacing: float | None = None,
    exclude: tuple[str, ...] = (),
) -> int:
    """CAMELYON16: lesion FROC and slide AUC, with 95% bootstrap intervals over slides.

    Example: medvision evaluate camelyon16 --predictions results --reference truth --out scores

    Parameters
    ----------
    predictions
        Output folder of `medvision analyze`, or a folder of CSV files `SLIDE.csv` with probability,x,y per detection.
    reference
        Folder of ASAP XML outlines or mask images named like the slides; a slide with an empty file is normal.
    out
        Folder for the scores as JSON, the FROC plot and a page.
    protocol
        "official" repeats the published evaluation, its quirks included; "corrected" leaves them out.
    slide_spacing
        Level-0 µm/px of slides whose predictions do not state it (CAMELYON16: 0.243).
    exclude
        Slides to leave out by name, such as test_049 (a duplicate) and test_114 (not exhaustively annotated).
    """
    from medvision.evaluations.camelyon16 import evaluate
    from medvision.evaluations.camelyon16_page import terminal_table, write_evaluation
    from medvision.store.files import make_output

    make_output(out)
    result = evaluate(predictions, reference, protocol, slide_spacing, exclude)
    console.print(terminal_table(result))
    for name, path in write_evaluation(result, out).items():
        print_made(name, path)
    return 0
