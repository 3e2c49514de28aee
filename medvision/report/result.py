"""Reading what was found about one slide or one image, whichever it is."""

from __future__ import annotations

import json
from pathlib import Path

from medvision.report.build import read_record
from medvision.store.image_records import ImageResult
from medvision.store.records import SlideResult

Result = SlideResult | ImageResult


def read_result(path: Path) -> Result:
    """The result in a `result.json`.

    Raises:
        StoreError: if the file is missing, unreadable, or of another schema version than this program writes.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None  # what is wrong with it is said by `read_record`
    of_image = isinstance(content, dict) and content.get("kind") == "image"
    return read_record(path, ImageResult) if of_image else read_record(path, SlideResult)
