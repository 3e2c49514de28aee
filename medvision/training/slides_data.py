"""Slides to learn from: their feature tables, labels and patients, and the bags drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from medvision.core.digest import digest_file, digest_json
from medvision.core.errors import UsageError
from medvision.core.features import FeatureSource
from medvision.core.results import FloatArray
from medvision.store.cohort import CohortSlide
from medvision.store.features import FeatureTable
from medvision.store.manifest import files_of, read_manifest
from medvision.training.loop import Batch
from medvision.training.slide_sampling import patient_of

Ints = npt.NDArray[np.int64]

_KEPT_BYTES = 2 << 30
"""Feature tables that fit this stay in memory; of larger cohorts the windows are read anew at each step."""


@dataclass(frozen=True, eq=False)
class LabelledSlide:
    """A slide with its table, class (index) and patient."""

    name: str
    table: FeatureTable
    label: int
    patient: str


@dataclass(eq=False)
class SlideSet:
    """Slides with one source of features. Vectors are read when needed and kept where all of them fit."""

    slides: tuple[LabelledSlide, ...]
    _kept: dict[str, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def labels(self) -> Ints:
        """Class of each slide `(n,)`."""
        return np.array([slide.label for slide in self.slides], np.int64)

    @property
    def patients(self) -> list[str]:
        """Patient of each slide."""
        return [slide.patient for slide in self.slides]

    @property
    def source(self) -> FeatureSource:
        """What made the features."""
        return self.slides[0].table.info.source

    @property
    def digest(self) -> str:
        """Of everything that is learnt from: features, labels and patients."""
        parts = [[s.name, _table_digest(s.table), s.label, s.patient] for s in self.slides]
        return digest_json(parts)

    def of(self, chosen: Sequence[int] | Ints) -> SlideSet:
        """Some of the slides; what is in memory is shared."""
        return SlideSet(tuple(self.slides[int(k)] for k in chosen), self._kept)

    def vectors(self, index: int, rows: Ints | None = None) -> FloatArray:
        """Vectors `(n, d)` of a slide that could be read, all or of some rows of those."""
        slide = self.slides[index]
        if slide.name not in self._kept:
            every = slide.table.vectors()
            every = every[~np.isnan(every).any(axis=1)]
            if sum(a.nbytes for a in self._kept.values()) + every.nbytes > _KEPT_BYTES:
                return every if rows is None else every[rows]
            self._kept[slide.name] = every
        held = self._kept[slide.name]
        return held if rows is None else held[rows]

    def length(self, index: int) -> int:
        """Number of windows of a slide that could be read."""
        return int(self.slides[index].table.windows.read.sum())


def gather(
    slides: Sequence[CohortSlide], classes: Sequence[str], table_of: Callable[[CohortSlide], FeatureTable]
) -> SlideSet:
    """The labelled slides of a cohort with their tables.

    A slide without patient counts as a patient of its own. Slides without any window of tissue are refused by name.

    Raises:
        UsageError: if a label is missing or unknown, a class has no slide, a table is empty or of another trunk, or
            one image is of two patients.
    """
    found: list[LabelledSlide] = []
    owners: dict[str, CohortSlide] = {}
    for slide in slides:
        if slide.label not in classes:
            raise UsageError(
                f"slide {slide.slide_id!r}: label {slide.label!r} is none of the classes {', '.join(classes)}"
            )
        table = table_of(slide)
        if not table.windows.read.any():
            raise UsageError(f"slide {slide.slide_id!r}: its feature table holds no window; leave it out")
        if found and (differ := table.info.source.differences(found[0].table.info.source)):
            raise UsageError(f"slide {slide.slide_id!r}: other features than the first: {'; '.join(differ)}")
        twin = owners.setdefault(table.info.slide_digest, slide)
        if patient_of(twin) != patient_of(slide):
            raise UsageError(
                f"slides {twin.slide_id!r} and {slide.slide_id!r} are one image of two patients, "
                f"{patient_of(twin)} and {patient_of(slide)}; what is learnt from one would be known of the other"
            )
        patient = patient_of(slide)
        found.append(LabelledSlide(slide.slide_id, table, classes.index(slide.label), patient))
    absent = [name for k, name in enumerate(classes) if all(slide.label != k for slide in found)]
    if absent:
        raise UsageError(f"no slide to learn from is of class {', '.join(absent)}")
    return SlideSet(tuple(found))


def split_patients(data: SlideSet, parts: int, seed: int) -> list[Ints]:
    """Indices of the slides of each of `parts` groups: no patient in two, classes spread as evenly as that allows.

    A patient's class is the highest of its slides'. Patients of a class are dealt out in an order drawn from `seed`.

    Raises:
        UsageError: if there are fewer patients than parts, or a class is missing outside of some part.
    """
    of_patient: dict[str, list[int]] = {}
    for k, patient in enumerate(data.patients):
        of_patient.setdefault(patient, []).append(k)
    if len(of_patient) < parts:
        raise UsageError(f"{len(of_patient)} patients cannot be split into {parts} groups")
    labels = data.labels
    strata: dict[int, list[str]] = {}
    for patient in sorted(of_patient):
        strata.setdefault(int(labels[of_patient[patient]].max()), []).append(patient)
    random = np.random.default_rng(seed)
    dealt = [strata[label][i] for label in sorted(strata) for i in random.permutation(len(strata[label]))]
    groups = [
        sorted(k for patient in dealt[part::parts] for k in of_patient[patient]) for part in range(parts)
    ]
    for group in groups:
        rest = np.delete(labels, group)
        if set(rest) != set(labels):
            raise UsageError(f"without {len(group)} held-out slides a class has none left; give fewer folds")
    return [np.array(group, np.int64) for group in groups]


def bags(data: SlideSet, batch_size: int, max_windows: int | None, seed: int) -> Callable[[int], Batch]:
    """Batches as a function of the step: bags `(b, n, d)`, the shorter filled up with NaN, and classes `(b,)`.

    Each pass over the slides is a new order; a bag of more than `max_windows` windows is a draw of so many, in order.
    """

    def batch(step: int) -> Batch:
        chosen = []
        for place in range(step * batch_size, (step + 1) * batch_size):
            turn, at = divmod(place, len(data))
            order = np.random.default_rng((seed, 1, turn)).permutation(len(data))
            chosen.append(int(order[at]))
        random = np.random.default_rng((seed, 2, step))
        drawn = [data.vectors(k, _draw(data.length(k), max_windows, random)) for k in chosen]
        longest = max(len(vectors) for vectors in drawn)
        filled = np.full((len(drawn), longest, drawn[0].shape[1]), np.nan, np.float32)
        for row, vectors in zip(filled, drawn, strict=True):
            row[: len(vectors)] = vectors
        return torch.from_numpy(filled), torch.from_numpy(data.labels[chosen])

    return batch


def moments(data: SlideSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation `(d,)` of the features, each slide counting the same; a constant one has 1."""
    means, squares = [], []
    for k in range(len(data)):
        vectors = data.vectors(k).astype(np.float64)
        means.append(vectors.mean(axis=0))
        squares.append((vectors**2).mean(axis=0))
    mean = np.mean(means, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 0))
    std[std < 1e-6] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _draw(windows: int, limit: int | None, random: np.random.Generator) -> Ints | None:
    if limit is None or windows <= limit:
        return None
    return np.sort(random.choice(windows, limit, replace=False)).astype(np.int64)


def _table_digest(table: FeatureTable) -> str:
    """Of the table's content: from its manifest where the store made it, else from its files."""
    manifest = read_manifest(table.folder)
    if manifest is not None:
        return digest_json(manifest.files)
    return digest_json({name: digest_file(table.folder / name) for name in files_of(table.folder)})
