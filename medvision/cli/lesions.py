"""`medvision lesions`."""

from __future__ import annotations

from pathlib import Path

from medvision.cli.console import console, print_made


def lesions(first: Path, second: Path, /, *, out: Path, threshold: float = 0.9) -> int:
    """Lesions scored by two models: one detection per component of the first heatmap, with the mean of both.

    Example: medvision lesions results-a results-b --out detections

    The tables can be scored: medvision evaluate camelyon16 --predictions detections --reference truth --out scores

    Parameters
    ----------
    first
        Output folder of `medvision analyze` with the first model, whose heatmap says where lesions are.
    second
        That of the same slides with the second model.
    out
        Folder for SLIDE.csv (probability,x,y) and slide_scores.csv; made when absent.
    threshold
        Probability from which a cell of the first heatmap belongs to a lesion.
    """
    from medvision.pipelines.lesions import SLIDE_SCORES, score_lesions

    for slide in score_lesions(first, second, out, threshold):
        console.print(f"{slide.slide}: {slide.lesions} lesions", markup=False, soft_wrap=True)
    print_made("slide scores", out / SLIDE_SCORES)
    return 0
