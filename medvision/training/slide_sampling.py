"""Labelled windows drawn from slides: where they may lie, how slides are kept apart, and what a step draws.

A draw is a function of the seed, the step and the number of the window in its batch alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.sources.base import Pixels
from medvision.store.cohort import CohortSlide
from medvision.training.cohort_config import SamplingConfig
from medvision.training.slide_windows import NORMAL_LABELS, Places, SlideWindows

NONE: Places = np.zeros((0, 2))
_TRIES = 8


@dataclass(frozen=True, eq=False)
class SlidePlaces:
    """Places of one slide, each `(n, 2)` in um: in tumour, beside it, in other normal tissue, and once mistaken."""

    tumour: Places
    near: Places
    normal: Places
    hard: Places = field(default_factory=lambda: NONE)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A batch: `images` uint8 `(n, window, window, 3)`, `labels` int64 `(n,)`, 1 for tumour, `slides` int64 `(n,)`."""

    images: Pixels
    labels: npt.NDArray[np.int64]
    slides: npt.NDArray[np.int64]


def split_validation(
    slides: Sequence[CohortSlide], share: float, seed: int
) -> tuple[tuple[CohortSlide, ...], tuple[CohortSlide, ...]]:
    """Slides to learn from and slides to validate on: whole patients, about `share` of those with and without tumour.

    A slide without patient is a patient of its own.

    Raises:
        UsageError: if no such choice leaves normal tissue and tumour on both sides.
    """
    patients = sorted({patient_of(slide) for slide in slides})
    order = [patients[k] for k in np.random.default_rng([seed, 0x5A11]).permutation(len(patients))]
    theirs = {name: [slide for slide in slides if patient_of(slide) == name] for name in patients}
    with_tumour = [name for name in order if any(has_tumour(slide) for slide in theirs[name])]
    all_normal = [name for name in order if name not in with_tumour]
    kept = {
        name for group in (with_tumour, all_normal) for name in group[: max(1, round(share * len(group)))]
    }
    learn = tuple(slide for slide in slides if patient_of(slide) not in kept)
    validate = tuple(slide for slide in slides if patient_of(slide) in kept)
    if not any(map(has_tumour, learn)) or not any(map(has_tumour, validate)):
        raise UsageError(
            f"{len(with_tumour)} of {len(patients)} patients have annotated tumour; to learn and to validate takes two"
        )
    return learn, validate


def prove_disjoint(learn: Sequence[CohortSlide], validate: Sequence[CohortSlide]) -> str:
    """A sentence that shows that no slide, file or patient lies on both sides.

    Raises:
        UsageError: if one does, naming it.
    """
    for what, key in (("slide", _name), ("file", _file), ("patient", patient_of)):
        both = {key(slide) for slide in learn} & {key(slide) for slide in validate}
        if both:
            raise UsageError(f"{what} {min(both)!r} would be learnt from and validated on")
    sides = [
        f"{len(side)} slides of {len(set(map(patient_of, side)))} patients" for side in (learn, validate)
    ]
    names = ", ".join(sorted(slide.slide_id for slide in validate))
    return (
        f"learning from {sides[0]}, validating on {sides[1]}{f' ({names})' if names else ''}; "
        "slides on both sides: 0, patients on both sides: 0"
    )


def require_other_content(learn: SlideWindows, validate: SlideWindows) -> None:
    """Raise `UsageError`, naming both, if a slide of one side is a copy of one of the other under another name."""
    names = {learn.source(k).id: slide.slide_id for k, slide in enumerate(learn.slides)}
    for k, slide in enumerate(validate.slides):
        twin = names.get(validate.source(k).id)
        if twin is not None:
            raise UsageError(
                f"slide {twin!r}, to learn from, and {slide.slide_id!r}, to validate on, are one image"
            )


def find_places(windows: SlideWindows, slide: int, how: SamplingConfig, seed: int) -> SlidePlaces:
    """Where the windows of one slide may lie: in tissue only, at most `how.per_slide` places of each kind."""
    tissue, tissue_um = windows.tissue(slide)
    distance = distance_to_tumour(windows, slide, how.grid_um)
    at = (np.indices(distance.shape).transpose(1, 2, 0) + 0.5) * how.grid_um
    nearest = np.minimum((at / tissue_um).astype(np.int64), np.array(tissue.shape) - 1)
    inside = tissue[nearest[..., 0], nearest[..., 1]]
    tumour, near = distance == 0, (distance > 0) & (distance <= how.near_um)
    if tumour.any() and not (tumour & inside).any():
        inside |= tumour  # what a person outlined is tissue, however pale
    rng = np.random.default_rng([seed, 0x91AC, slide])

    def some(mask: npt.NDArray[np.bool_]) -> Places:
        places = at[mask & inside]
        if len(places) > how.per_slide:
            places = places[np.sort(rng.choice(len(places), how.per_slide, replace=False))]
        return np.asarray(places)

    return SlidePlaces(some(tumour), some(near), some(distance > how.near_um))


def distance_to_tumour(windows: SlideWindows, slide: int, grid_um: float) -> npt.NDArray[np.float32]:
    """Distance in um from the centre of each cell of a grid to annotated tumour: 0 inside, infinite without any."""
    source = windows.source(slide)
    assert source.spacing is not None  # SlideWindows requires it
    sides = [n * um for n, um in zip(source.levels[0].shape, source.spacing.values, strict=True)]
    shape = (math.ceil(sides[0] / grid_um), math.ceil(sides[1] / grid_um))
    tumour = windows.tumour_mask(slide, Box((0, 0), shape), grid_um)
    if not tumour.any():
        return np.full(shape, np.inf, np.float32)
    pixels = cv2.distanceTransform((~tumour).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(pixels * grid_um, np.float32)


class SlideSampler:
    """Draws batches of labelled windows, half of them tumour, every slide alike among those that have the kind.

    Normal windows lie beside tumour and where the network once erred in the shares of `how`, else anywhere in tissue.
    Windows of the next step are read ahead on threads; that changes nothing about what is drawn.
    """

    def __init__(
        self,
        windows: SlideWindows,
        places: Sequence[SlidePlaces],
        how: SamplingConfig,
        window_px: int,
        size: int,
        seed: int,
        threads: int = 2,
    ) -> None:
        """Draw batches of `size` windows of `window_px`.

        Raises:
            UsageError: if the slides have no annotated tumour, or no normal tissue.
        """
        self.windows, self.how, self.window_px, self.size, self.seed = windows, how, window_px, size, seed
        kinds = ("tumour", "near", "normal", "hard")
        self.by_kind = {
            kind: [(k, at) for k, p in enumerate(places) if len(at := getattr(p, kind))] for kind in kinds
        }
        for kind, name in (("tumour", "annotated tumour"), ("normal", "normal tissue")):
            if not self.by_kind[kind]:
                raise UsageError(f"none of the {len(places)} slides has {name} to learn from")
        self._pool = ThreadPoolExecutor(threads)
        self._ahead: dict[int, list[Future[tuple[Pixels, bool, int]]]] = {}

    def __call__(self, step: int) -> Drawn:
        """The batch of a step."""
        now = self._ahead.pop(step, None) or self._read(step)
        self._ahead = {step + 1: self._read(step + 1)}
        images, labels, slides = zip(*(future.result() for future in now), strict=True)
        return Drawn(np.stack(images), np.array(labels, np.int64), np.array(slides, np.int64))

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, step: int) -> list[Future[tuple[Pixels, bool, int]]]:
        return [self._pool.submit(self._window, step, number) for number in range(self.size)]

    def _window(self, step: int, number: int) -> tuple[Pixels, bool, int]:
        """One window with its label and slide. A place that cannot be decoded is replaced by another draw."""
        for attempt in range(_TRIES):
            rng = np.random.default_rng([self.seed, step, number, attempt])
            slide, places = self._slide(number, rng)
            centre = places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 2) * self.how.grid_um
            try:
                image = self.windows.read(slide, centre, self.window_px)
            except WindowUnreadableError as error:
                reason = error
                continue
            return image, bool(self.windows.tumour(slide, centre)), slide
        raise reason

    def _slide(self, number: int, rng: np.random.Generator) -> tuple[int, Places]:
        kind = "tumour" if number % 2 == 0 else "normal"
        if kind == "normal":
            chance = rng.uniform()
            if chance < self.how.near_share and self.by_kind["near"]:
                kind = "near"
            elif chance > 1 - self.how.hard_share and self.by_kind["hard"]:
                kind = "hard"
        among = self.by_kind[kind]
        return among[rng.integers(len(among))]


def with_hard(places: Sequence[SlidePlaces], hard: Sequence[Places]) -> list[SlidePlaces]:
    """The places of every slide, with those where the network erred added to the ones known."""
    return [replace(p, hard=np.concatenate([p.hard, h])) for p, h in zip(places, hard, strict=True)]


def has_tumour(slide: CohortSlide) -> bool:
    """Whether a slide is labelled as other than normal or, without label, has an annotation."""
    if slide.label is None:
        return slide.annotation is not None
    return slide.label.casefold() not in NORMAL_LABELS


def patient_of(slide: CohortSlide) -> str:
    """The patient; a slide without one is a patient of its own."""
    return slide.patient or f"(slide {slide.slide_id})"


def _name(slide: CohortSlide) -> str:
    return slide.slide_id.casefold()


def _file(slide: CohortSlide) -> str:
    return str(slide.path.resolve())
