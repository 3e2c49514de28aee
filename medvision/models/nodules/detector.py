"""The contract of every nodule detector: windows in, boxes in space out; in training, windows and boxes in, losses out.

Boxes are float `(k, 2, 3)`: start and stop in voxels of the window, array order (slice, row, column). This is what the
engine's `ObjectSink` takes. Each window is computed alone, so that neither its batch nor its neighbours can move a box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypedDict, overload

import torch
from torch import nn


class Target(TypedDict):
    """What a window holds: `boxes` float `(k, 2, 3)` and `labels` int64 `(k,)`, indices of the contract's classes."""

    boxes: torch.Tensor
    labels: torch.Tensor


class Boxes(NamedTuple):
    """What is found in one window: `boxes` (k, 2, 3) and `scores` (k,)."""

    boxes: torch.Tensor
    scores: torch.Tensor


Found = list[dict[str, torch.Tensor]]
Losses = dict[str, torch.Tensor]


class NoduleDetector(nn.Module):
    """Base of the detectors, which say how one window is searched and how a batch is learnt from."""

    def find(self, window: torch.Tensor) -> Boxes:
        """Boxes of one window `(1, slices, rows, columns)`."""
        raise TypeError(f"{type(self).__name__} finds nothing in a window of {tuple(window.shape)}")

    def losses(self, windows: torch.Tensor, targets: list[Target]) -> Losses:
        """Losses by name, whose sum is to be minimised."""
        raise TypeError(f"{type(self).__name__} learns nothing from {len(targets)} of {len(windows)} windows")

    @overload
    def forward(self, windows: torch.Tensor) -> Found: ...
    @overload
    def forward(self, windows: torch.Tensor, targets: list[Target]) -> Losses: ...

    def forward(self, windows: torch.Tensor, targets: list[Target] | None = None) -> Found | Losses:
        """In evaluation, what each window holds; in training, which needs `targets`, the losses.

        A window without any contrast, as of air alone, holds nothing.

        Args:
            windows: normalised, float `(n, 1, slices, rows, columns)`.
            targets: one per window.

        Returns:
            A dictionary per window of `boxes` (k, 2, 3), `scores` (k,) falling, and `labels` (k,), all 0: the only
            class; or losses by name.

        Raises:
            ValueError: for windows of another shape or with values that are not finite, or for targets in evaluation,
                none in training, or another number of them.
        """
        if windows.ndim != 5 or windows.shape[1] != 1:
            raise ValueError(f"windows of shape {tuple(windows.shape)} are not (n, 1, slices, rows, columns)")
        if not bool(torch.isfinite(windows).all()):
            raise ValueError("windows hold values that are not finite")
        if self.training != (targets is not None):
            raise ValueError("targets belong to training, and training needs them")
        if targets is None:
            return [self._found(window) for window in windows]
        if len(targets) != len(windows):
            raise ValueError(f"{len(targets)} targets for {len(windows)} windows")
        return self.losses(windows, targets)

    def _found(self, window: torch.Tensor) -> dict[str, torch.Tensor]:
        if bool(window.amin() == window.amax()):
            boxes, scores = window.new_zeros((0, 2, 3)), window.new_zeros(0)
        else:
            boxes, scores = self.find(window)
        boxes, scores = boxes.float(), scores.float()
        usable = torch.isfinite(boxes).flatten(1).all(dim=1) & torch.isfinite(scores)
        boxes, scores = boxes[usable], scores[usable]
        order = scores.argsort(descending=True, stable=True)
        labels = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        return {"boxes": boxes[order], "scores": scores[order], "labels": labels}


@dataclass(frozen=True, slots=True)
class TemperedBoxes:
    """What a detector found, with the log odds of each score divided by `temperature` (Guo et al., ICML 2017)."""

    temperature: float = 1.0

    def __call__(self, found: Found) -> Found:
        """The same boxes in the same order."""
        if self.temperature == 1:
            return found
        return [
            {
                **window,
                "scores": torch.sigmoid(torch.logit(window["scores"].double()) / self.temperature).float(),
            }
            for window in found
        ]
