"""Plans of overlapping windows, and what is read beyond the image."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from medvision.core.errors import UsageError
from medvision.core.geometry import Box, Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import overlapped
from medvision.engine.sinks import StackSink
from medvision.sources.array_source import ArraySource
from medvision.sources.mirrored import mirrored, read_mirrored


@pytest.mark.parametrize("extent", [(5, 7), (16, 16), (17, 40), (100, 33)])
@pytest.mark.parametrize(
    ("window", "step", "margin", "multiple"), [(16, 8, 0, 4), (16, 8, 2, 8), (8, 8, 0, 1)]
)
def test_cores_partition_the_extent(
    extent: tuple[int, ...], window: int, step: int, margin: int, multiple: int
) -> None:
    """Every pixel is in one core, every core is answered for, and windows lie on the pooling grid."""
    plan = overlapped("x", extent, (window,) * 2, (step,) * 2, margin=(margin,) * 2, multiple=multiple)
    seen = np.zeros(extent, int)
    for index in range(len(plan)):
        core, box = plan.core(index), plan.box(index)
        seen[core.slices()] += 1
        answered = Box(
            tuple(a + margin for a in box.start),
            tuple(min(b - margin, n) for b, n in zip(box.stop, extent, strict=True)),
        )
        assert answered.intersect(core) == core
    assert (seen == 1).all()
    assert not ((plan.boxes[:, 0] + margin) % multiple).any()
    assert (plan.boxes[:, 0].min(axis=0) == -margin).all()
    beyond = plan.boxes[:, 1].max(axis=0) - margin - np.array(extent)
    assert (beyond < np.maximum(multiple, window - 2 * margin - np.array(extent) + 1)).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"step": (20, 8)}, "cannot follow each other"),
        ({"step": (6, 8), "multiple": 4}, "pooling grid"),
        ({"margin": (8, 8)}, "cannot follow each other"),
        ({"step": (8,)}, "number of axes"),
    ],
)
def test_impossible_plans(given: dict[str, object], said: str) -> None:
    """They are refused with their numbers."""
    whole: dict[str, object] = {"window": (16, 16), "step": (8, 8)} | given
    with pytest.raises(UsageError, match=said):
        overlapped("x", (40, 40), **whole)  # type: ignore[arg-type]


def test_mirror_is_numpys() -> None:
    """Without the edge twice, over and over."""
    line = np.arange(5)
    assert np.array_equal(line[mirrored(-12, 19, 5)], np.pad(line, (12, 14), mode="reflect"))
    assert np.array_equal(mirrored(-2, 3, 1), np.zeros(5))
    image = np.random.default_rng(0).integers(0, 255, (6, 9, 3)).astype(np.uint8)
    asked = []

    def read(box: Box) -> np.ndarray:
        asked.append(box)
        return image[box.slices()]

    found = read_mirrored(read, Box((-3, 4), (2, 12)), (6, 9))
    assert np.array_equal(found, np.pad(image, ((3, 0), (0, 3), (0, 0)), mode="reflect")[:5, 4:])
    assert asked == [Box((0, 4), (4, 9))]


@pytest.mark.parametrize("spacing", [None, Spacing((0.5, 0.5), "um")])
def test_engine_reads_the_mirror(spacing: Spacing | None) -> None:
    """Windows at the edge show the mirrored image, in pixels and at a spacing, and a plan says so in its digest."""
    image = np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8)
    source = ArraySource(image, spacing=Spacing((0.5, 0.5), "um"))
    plan = overlapped(source.id, (20, 24), (16, 16), (8, 8), margin=(4, 4), spacing=spacing)
    model = PatchModel(
        name="same",
        net=nn.Identity(),
        window=(16, 16),
        spacing=None,
        normalisation=Normalisation((0.0,) * 3, (1 / 255,) * 3),
        output="array",
        classes=("a",),
        digest="0",
        activation=lambda raw: raw,
    )
    stack, _ = PatchEngine(EngineSettings(device="cpu", readers=1)).run(source, plan, model, StackSink(plan))
    wide = np.pad(image, ((4, 20), (4, 20), (0, 0)), mode="reflect")
    for window, (start, stop) in zip(stack, plan.boxes + 4, strict=True):
        assert np.array_equal(
            np.moveaxis(window, 0, -1).round(), wide[Box(tuple(start), tuple(stop)).slices()]
        )
    filled = overlapped(source.id, (20, 24), (16, 16), (8, 8), margin=(4, 4), outside="fill")
    assert filled.digest != overlapped(source.id, (20, 24), (16, 16), (8, 8), margin=(4, 4)).digest
