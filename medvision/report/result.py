"""Reading what was found about one slide, image, scan or case, whichever it is."""

from __future__ import annotations

import json
from pathlib import Path

from medvision.report.build import read_record
from medvision.store.image_records import ImageResult
from medvision.store.records import ItemKind, SlideResult
from medvision.store.scan_records import NoduleResult
from medvision.store.segment_records import SegmentResult

Result = SlideResult | ImageResult | NoduleResult | SegmentResult


def read_result(path: Path) -> Result:
    """The result in a `result.json`.

    Raises:
        StoreError: if the file is missing, unreadable, or of another schema version than this program writes.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None  # what is wrong with it is said by `read_record`
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind == "case":
        return read_record(path, SegmentResult)
    if kind == "scan":
        return read_record(path, NoduleResult)
    return read_record(path, ImageResult) if kind == "image" else read_record(path, SlideResult)


def kind_of(result: Result) -> ItemKind:
    """What a result is about."""
    return "slide" if isinstance(result, SlideResult) else result.kind
