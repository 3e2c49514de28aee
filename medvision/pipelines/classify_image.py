"""One image to its class: probabilities, whether it is like the training images, a saliency map, and a report."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from medvision.pipelines.image_config import ImageConfig
from medvision.sources.guarded import Limits
from medvision.store.records import SlideOutcome


def classify_image(
    image: Path,
    out: Path,
    config: ImageConfig,
    name: str | None = None,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    *,
    alias: str | None = None,
    limits: Limits | None = None,
) -> SlideOutcome:
    """Classify one image into `out/<name>/`: the record (`ImageResult` in `result.json`), the pictures, the report.

    Parameters and outcome are those of `analyze_slide`. The outcome's `label` is the predicted class, its `probability`
    that of the contract's positive class where there is one, else of the predicted class. An image that is unlike those
    of the training is "done", and `reason` says in what. With `limits`, the file is read by a process of its own that
    may not exceed them.

    A result of the same file content, weights, configuration and code that verifies is kept ("unchanged"). What goes
    wrong with the image is the outcome's status and reason; what is wrong with the configuration raises.
    """
    raise NotImplementedError


def check_image_config(config: ImageConfig) -> None:
    """Make sure that the model can be had and everything in `config` fits it, before any image is read.

    Raises:
        MedvisionError: with what to pass instead.
    """
    raise NotImplementedError
