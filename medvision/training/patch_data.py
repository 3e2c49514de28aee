"""The data of a training run: patches of slides, regions, rendered windows, and how the slides are split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medvision.core.errors import UsageError
from medvision.models.weights import digest_state
from medvision.training.patch_config import TrainPatchConfig
from medvision.training.patches import (
    PatchSet,
    as_float,
    cut_region,
    join,
    read_folder,
    read_region,
    read_rgb,
    to_window,
)

Render = Callable[..., tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]
"""`render(n, seed, size_px=, spacing_um=)` gives images `(n, size, size, 3)` uint8 and labels `(n,)` 0 or 1."""


@dataclass(frozen=True, eq=False)
class TrainData:
    """All that a run trains and tests on. `targets` are images `(1, 3, rows, columns)` whose colours are borrowed."""

    patches: PatchSet
    regions: PatchSet | None
    rendered: PatchSet | None
    rendered_test: PatchSet | None
    targets: dict[str, torch.Tensor]

    @property
    def digest(self) -> str:
        """Of every image and label used."""
        parts = [s for s in (self.patches, self.regions, self.rendered) if s is not None]
        tensors = {f"{k}.images": torch.from_numpy(s.images) for k, s in enumerate(parts)}
        tensors |= {f"{k}.labels": torch.from_numpy(s.labels) for k, s in enumerate(parts)}
        return digest_state(tensors)


def load_data(config: TrainPatchConfig, render: Render | None) -> TrainData:
    """Read the patches, cut the regions, render the synthetic windows.

    Raises:
        UsageError: if a folder or file is missing or unreadable, or windows are asked for without a renderer.
    """
    root = config.data
    if not root.is_dir():
        raise UsageError(f"{root}: no such data folder; the configuration's `data` says where it is")
    patches = read_folder(root / config.patches, config.classes, config.slide_pattern, config.window_px)
    regions = [
        cut_region(
            read_region(root / r.path, r.box),
            config.classes.index(r.label),
            r.slide,
            r.side_px,
            r.stride_px or max(1, r.side_px // 2),
            config.window_px,
        )
        for r in config.regions
    ]
    wanted = config.synthetic
    if (wanted.count or wanted.held_out) and render is None:
        raise UsageError("the configuration asks for synthetic windows, but no renderer was given")
    targets = {path.stem: as_float(read_rgb(root / path)[None]) for path in config.colour_targets}
    return TrainData(
        patches,
        join(regions) if regions else None,
        _rendered(config, render, wanted.count, wanted.seed),
        _rendered(config, render, wanted.held_out, wanted.seed + 1_000_003),
        targets,
    )


def _rendered(config: TrainPatchConfig, render: Render | None, count: int, seed: int) -> PatchSet | None:
    if count == 0 or render is None:
        return None
    # Rendered twice as fine and averaged down, as a window read from a slide is.
    fine, labels = render(count, seed, size_px=2 * config.window_px, spacing_um=config.spacing_um / 2)
    images = np.stack([to_window(image, config.window_px) for image in fine])
    return PatchSet(images, labels.astype(np.int64), ("synthetic",) * count)


def check_folds(config: TrainPatchConfig, patches: PatchSet) -> tuple[tuple[str, ...], ...]:
    """The slides that are kept out together, fold by fold; by default one slide at a time.

    Raises:
        UsageError: if a slide is unknown, in two folds, or in a fold and among the regions, or a fold leaves a class
            without patches to learn from.
    """
    known = sorted(set(patches.slides))
    folds = tuple((slide,) for slide in known) if config.folds is None else config.folds
    named = [slide for fold in (*folds, config.holdout) for slide in fold]
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise UsageError(f"no patch is of slide {', '.join(unknown)}; slides: {', '.join(known)}")
    learnt = sorted({region.slide for region in config.regions} & set(named))
    if learnt:
        raise UsageError(
            f"slide {learnt[0]} is kept out in a fold or by `holdout`, but a region of it would be learnt from; name "
            "it in no fold, or drop the region"
        )
    tested = [slide for fold in folds for slide in fold]
    if len(set(tested)) != len(tested):
        raise UsageError(f"a slide lies in more than one fold: {folds}")
    for fold in folds:
        left = patches.labels[~patches.of(fold)]
        if len(np.unique(left)) < len(config.classes):
            raise UsageError(f"without slides {', '.join(fold)} a class is absent from training")
    return folds
