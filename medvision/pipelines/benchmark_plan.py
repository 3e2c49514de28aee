"""Tissue and planning of a slide of 100,000 px, in a process of its own: prints seconds and megabytes of memory used.

Such a slide takes long to write. Only its overview and its plan depend on its size, so its levels are stood for by an
array: the overview of a given slide, repeated to the size that a level of 8 µm/px of the large slide has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medvision.core.geometry import Box, Spacing
from medvision.engine.plan import grid
from medvision.ops.tissue import box_share
from medvision.pipelines.heatmap import locate_tissue, read_overview
from medvision.sources import extent_at, open_source
from medvision.sources.base import UINT8, Level, Pixels

SIDE = 100_000
SPACING_UM = 0.25
_DOWN = 32


class LargeSlide:
    """A source of 100,000 px whose level at a 32nd is an array, and whose full resolution is never read."""

    axes, channels, fill, id, dtype = "yx", 3, 255, "large", UINT8
    reader, why, vendor = "array", "made for the benchmark", "array"

    def __init__(self, overview: Pixels) -> None:
        side = SIDE // _DOWN
        self.path = Path("large")
        repeats = [-(-side // n) for n in overview.shape[:2]]
        self.spacing: Spacing | None = Spacing((SPACING_UM, SPACING_UM))
        self.metadata: Mapping[str, str] = {}
        self.levels: tuple[Level, ...] = (
            Level((SIDE, SIDE), (1.0, 1.0)),
            Level((side, side), (float(_DOWN), float(_DOWN))),
        )
        self._pixels = np.tile(overview, (*repeats, 1))[:side, :side]

    def read(self, box: Box, level: int = 0) -> Pixels:
        """Pixels of `box` in the level at a 32nd; white outside."""
        assert level == 1, "planning reads no full resolution"
        inside = box.intersect(Box((0, 0), self._pixels.shape[:2]))
        pixels = np.full((*box.shape, 3), self.fill, np.uint8)
        pixels[inside.shift((-box.start[0], -box.start[1])).slices()] = self._pixels[inside.slices()]
        return pixels

    def close(self) -> None:
        """Nothing to release."""


def main(slide: str) -> None:
    """Measure with the overview of `slide`."""
    source = open_source(slide)
    try:
        small = read_overview(source)
    finally:
        source.close()
    locate_tissue(small)  # what is imported at first use is not what is measured
    large = LargeSlide(small.image)
    before = _peak_kilobytes()
    started = time.perf_counter()
    overview = read_overview(large)
    tissue = locate_tissue(overview)
    spacing = Spacing((0.5, 0.5))
    plan = grid(large.id, extent_at(large, 0.5), (224, 224), spacing=spacing)
    plan = plan.keep(box_share(tissue.mask, overview.spacing_um, plan.cores, 0.5) >= 0.1)
    plan.storage_order()
    seconds = time.perf_counter() - started
    growth = _peak_kilobytes() - before
    print(f"{seconds:.3f} {growth * 1024 / 1e6:.0f}")


def _peak_kilobytes() -> int:
    """Not that of `getrusage`, which begins with the memory of the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1])
