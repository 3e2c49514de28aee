"""The allow-list of acquisition facts. What is not named here never leaves a reader: no ids, dates, users or labels."""

from __future__ import annotations

import re
from collections.abc import Mapping

ALLOWED = (
    "scanner_manufacturer",
    "scanner_model",
    "modality",
    "slices",
    "slice_thickness_mm",
    "kernel",
    "kvp",
    "objective_power",
    "mpp",
    "compression",
    "quality",
    "tile_size",
    "bits",
    "samples",
    "orientation",
    "icc_profile",
    "bounds",
)
"""Keys of `Source.metadata`, in the order in which they are shown."""

_PLAIN = re.compile(r"[^0-9A-Za-zÀ-ÿ .,+/()%×x=-]+")


def facts(found: Mapping[str, object]) -> dict[str, str]:
    """The allowed ones among `found`, in order, as short plain text; empty values are left out.

    Markup, control characters and separators are dropped, so that a hostile value cannot leave its line.
    """
    kept = {
        key: _PLAIN.sub(" ", str(found[key])).strip()[:80] for key in ALLOWED if found.get(key) is not None
    }
    return {key: value for key, value in kept.items() if value}
