"""From an opened case to labels: by a network, window by window, or by a method without one; then clean-up steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.core.labels import Segmentation
from medvision.core.results import FloatArray
from medvision.engine.backends import Runner
from medvision.engine.blend import BlendSink, Canvas
from medvision.engine.engine import PatchEngine, RunStats
from medvision.engine.plan import TilePlan
from medvision.models.segmentation.tiling import SEAMLESS, Tiling, choose_tiling
from medvision.ops.enlarge import linear_slabs
from medvision.ops.tissue import box_share
from medvision.pipelines.configured_segment import ReadySegment
from medvision.pipelines.heatmap import Overview, locate_tissue, read_overview
from medvision.pipelines.segment_case import Case
from medvision.pipelines.segment_classical import CLASSICAL, segment
from medvision.pipelines.segment_clean_up import CLEAN_UPS, check_order, clean_up
from medvision.pipelines.segment_config import SegmentConfig, parse_sides
from medvision.pipelines.segment_labels import decide, pixel_size
from medvision.pipelines.segment_methods import read_choice
from medvision.pipelines.segment_parts import LabelImage


@dataclass(frozen=True, eq=False)
class Found:
    """Labels, what they are called, and of a network how it was run."""

    image: LabelImage
    classes: tuple[str, ...]
    stats: RunStats | None = None
    tiling: Tiling | None = None
    seam: float | None = None


def tiling_for(config: SegmentConfig, ready: ReadySegment, extent: tuple[int, ...]) -> Tiling:
    """The windows that `config` wants over `extent`.

    Raises:
        UsageError: if the network cannot take them.
    """
    window = parse_sides(config.window, int)
    axes = len(ready.model.contract.window)
    if window is not None and len(window) == 1:
        window = window * axes
    return choose_tiling(
        ready.model.contract,
        extent,
        blend=config.blend,
        overlap=config.overlap,
        halo=config.halo,
        window=window,
    )


def check_steps(config: SegmentConfig) -> None:
    """Refuse a method or a clean-up step that is not there, options that it does not take, and steps out of order.

    Raises:
        UnknownNameError, UsageError: with what there is.
    """
    chosen = None if config.method is None else read_choice(CLASSICAL, config.method)
    objects = chosen is not None and chosen.method.objects
    check_order([read_choice(CLEAN_UPS, step) for step in config.steps], objects)


@dataclass(eq=False)
class SegmentRun:
    """One case on its way to labels."""

    case: Case
    config: SegmentConfig
    ready: ReadySegment | None
    engine: PatchEngine
    on_plan: Callable[[int], None]

    @cached_property
    def overview(self) -> Overview:
        """A slide at low resolution."""
        return read_overview(self.case.source)

    def found(self, scratch: Path) -> Found:
        """The labels. On the device's own thread only; `scratch` is for a slide's, which do not fit in memory."""
        if self.ready is None:
            return self._by_method()
        contract = self.ready.model.contract
        tiling, seam = self._tiling(self.ready)
        plan = tiling.plan(self.case.source.id, self.case.extent, self.case.grid)
        slide = self.case.info.kind == "slide"
        if slide and self.config.steps:
            raise UsageError(
                f"{self.config.steps[0]}: clean-up steps are for images and volumes, which fit in memory; a slide's "
                "small parts go by --minimum-size"
            )
        if slide and self.config.tissue_only:
            plan = self._on_tissue(plan)
        self.on_plan(len(plan))
        runner = self.ready.runner(tiling.window, self.case.ends)
        if slide:
            image, stats = self._streamed(plan, tiling, runner, scratch)
        else:
            canvas = Canvas.of(plan, len(contract.classes))
            sink = BlendSink(plan, tiling.margin, tiling.blend, canvas)
            _, stats = self.engine.run(self.case.source, plan, runner, sink)
            image = self._at_home(canvas.values)
        return Found(image, contract.classes, stats, tiling, seam)

    def _tiling(self, ready: ReadySegment) -> tuple[Tiling, float | None]:
        """The windows, and the difference at their seams where there are any.

        Cores that were to be exact and are not, as of a network that resizes its maps to its window, are blended.
        """
        tiling = tiling_for(self.config, ready, self.case.extent)
        if not any(tiling.parted):
            return tiling, None
        seam = ready.seam(tiling)
        if self.config.blend == "auto" and tiling.blend == "none" and seam > SEAMLESS:
            tiling = tiling_for(self.config.model_copy(update={"blend": "gaussian"}), ready, self.case.extent)
            seam = ready.seam(tiling)
        return tiling, seam

    def _by_method(self) -> Found:
        self.on_plan(1)
        choice = read_choice(CLASSICAL, self.config.method or "")
        found = segment(self.case.pixels, choice, self._sides)
        image, classes = self._tidied(found)
        if found.objects:
            return Found(image, ("background", "object"))
        names = ("foreground",) if classes == 1 else tuple(f"class {k}" for k in range(1, classes + 1))
        return Found(image, ("background", *names))

    def _streamed(
        self, plan: TilePlan, tiling: Tiling, runner: Runner, scratch: Path
    ) -> tuple[LabelImage, RunStats]:
        """Labels of a slide, in files that take room on the disk only where there is something."""
        labels, sure = (
            np.memmap(scratch / name, np.uint8, "w+", shape=self.case.extent) for name in ("labels", "sure")
        )

        def receive(box: Box, probabilities: FloatArray) -> None:
            labels[box.slices()], sure[box.slices()] = decide(probabilities, self.config.threshold)

        sink = BlendSink(plan, tiling.margin, tiling.blend, receive)
        _, stats = self.engine.run(self.case.source, plan, runner, sink)
        step = self._step
        return LabelImage(labels, sure, step, pixel_size(self.case.spacing, step)), stats

    @property
    def _step(self) -> tuple[float, ...]:
        """Side of the network's pixels in pixels of the file."""
        case = self.case
        wanted = None if self.ready is None else self.ready.model.contract.spacing
        if wanted is None or case.spacing is None:
            return (1.0,) * len(case.extent)
        return tuple(new / old for new, old in zip(wanted, case.spacing.values, strict=True))

    @property
    def _sides(self) -> tuple[float, ...] | None:
        return None if self.case.spacing is None else self.case.spacing.values

    def _at_home(self, probabilities: FloatArray) -> LabelImage:
        """Labels on the pixels of the file itself."""
        shape = self.case.shape
        slabs = linear_slabs(probabilities, shape, tuple(1 / step for step in self._step))
        if self.config.steps:
            whole = np.concatenate([slab for _, slab in slabs], axis=1)
            labels, _ = decide(whole, self.config.threshold)
            image, _ = self._tidied(Segmentation(labels, np.moveaxis(whole, 0, -1)))
            return image
        labels, sure = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        for start, slab in slabs:
            part = slice(start, start + slab.shape[1])
            labels[part], sure[part] = decide(slab, self.config.threshold)
        return self._image(labels, sure)

    def _tidied(self, found: Segmentation) -> tuple[LabelImage, int]:
        """The segmentation after the clean-up steps, and the highest class in it before."""
        known, before = found.probabilities, found
        classes = 1 if found.objects else int(found.labels.max(initial=0))
        for step in self.config.steps:
            before = found if not found.objects else before
            found = clean_up(self.case.pixels, found, [read_choice(CLEAN_UPS, step)], self._sides)
            known = found.probabilities if found.probabilities is not None else known
        if not found.objects:
            labels = found.labels.astype(np.uint8)
            return self._image(labels, _certainty(labels, known)), max(1, classes)
        inside = found.labels > 0
        of_class = np.uint8(1) if before.objects else before.labels.astype(np.uint8)
        labels = np.where(inside, of_class, np.uint8(0)).astype(np.uint8)
        image = self._image(labels, _certainty(labels, known))
        return replace(image, objects=found.labels.astype(np.int32)), max(1, classes)

    def _image(self, labels: npt.NDArray[np.uint8], sure: npt.NDArray[np.uint8] | None) -> LabelImage:
        one = (1.0,) * labels.ndim
        return LabelImage(labels, sure, one, pixel_size(self.case.spacing, one))

    def _on_tissue(self, plan: TilePlan) -> TilePlan:
        tissue = locate_tissue(self.overview)
        base = self.case.spacing if self.case.grid is None else self.case.grid
        assert base is not None, "a slide has a spacing"
        share = box_share(tissue.mask, self.overview.spacing_um, plan.cores, base.mean)
        return plan.keep(share > 0)


def _certainty(
    labels: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.uint8] | None:
    """How probable each label is, in 255ths, of `(*shape, classes)`."""
    if probabilities is None:
        return None
    own = np.take_along_axis(probabilities, labels[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.rint(own * 255).astype(np.uint8)
