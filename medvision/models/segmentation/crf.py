"""Fully connected conditional random field: every pixel is tied to every other, by position and colour.

Krähenbühl and Koltun, NIPS 2011, as DeepLab uses it after its network. The energy of labels x is

    sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] k(i, j)
    k(i, j) = w_a exp(-|s_i - s_j|² / 2σ_a² - |c_i - c_j|² / 2σ_c²)    appearance: near, and of like colour
            + w_s exp(-|s_i - s_j|² / 2σ_s²)                           smoothness: near

with positions s and colours c. Mean field replaces the labels by independent distributions Q and repeats

    Q_i(l) ∝ p_i(l) exp(sum_{j != i} k(i, j) Q_j(l))

The sums over all pairs are Gaussian filters: smoothness is separable and exact here; appearance runs on a permutohedral
lattice, or over all pairs where an image is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medvision.core.errors import UsageError
from medvision.models.segmentation.permutohedral import PermutohedralLattice

CrfFilter = Literal["lattice", "exact"]
CrfNormalisation = Literal["symmetric", "none"]
Message = Callable[[torch.Tensor], torch.Tensor]
"""What all others tell each pixel: `(pixels, classes)` from probabilities `(pixels, classes)`."""

_LEAST = 1e-6
"""Smallest probability that counts: a network's certain 0 may be overruled."""
_PAIRS_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class DenseCrfSettings:
    """Weights and widths of the two kernels; the defaults are those published with the method's code.

    Positions are in pixels, or in the unit of the spacing where one is given; colours in the values of the image
    (0..255 for 8 bits). With "symmetric" normalisation a kernel is divided by the root of its sums at both ends, so
    that the weights mean the same at all widths and sizes, as in the authors' code and DeepLab; "none" is the paper's
    formula. The "exact" filter takes the square of the pixels in time: for small images.
    """

    appearance_weight: float = 10.0
    appearance_position: float = 80.0
    appearance_colour: float = 13.0
    smoothness_weight: float = 3.0
    smoothness_position: float = 3.0
    iterations: int = 10
    filter: CrfFilter = "lattice"
    normalisation: CrfNormalisation = "symmetric"

    def __post_init__(self) -> None:
        widths = (self.appearance_position, self.appearance_colour, self.smoothness_position)
        if not all(math.isfinite(width) and width > 0 for width in widths):
            raise UsageError(f"widths of the kernels must be above 0, not {widths}")
        weights = (self.appearance_weight, self.smoothness_weight)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise UsageError(f"weights of the kernels must be 0 or above, not {weights}")
        if self.iterations < 1:
            raise UsageError(f"{self.iterations} iterations: at least 1")
        if self.filter not in ("lattice", "exact") or self.normalisation not in ("symmetric", "none"):
            raise UsageError(
                f"filter {self.filter!r} must be 'lattice' or 'exact', normalisation {self.normalisation!r} "
                "'symmetric' or 'none'"
            )


def dense_crf(
    images: torch.Tensor,
    probabilities: torch.Tensor,
    settings: DenseCrfSettings | None = None,
    spacing: Sequence[float] | None = None,
) -> torch.Tensor:
    """Probabilities after mean field, of the shape and on the device of `probabilities`; float32.

    Images of a batch do not touch each other. The result is the same at every run.

    Args:
        images: `(n, channels, *shape)`, of two or three axes, uint8 or any number.
        probabilities: `(n, classes, *shape)` in 0..1.
        settings: of the field.
        spacing: between pixels along each axis, in the unit of the settings' positions; 1 where not given.

    Raises:
        UsageError: for arrays that do not fit each other, or values that are no probabilities.
    """
    chosen = settings or DenseCrfSettings()
    shape = _checked(images, probabilities)
    steps = tuple(spacing) if spacing is not None else (1.0,) * len(shape)
    if len(steps) != len(shape) or not all(math.isfinite(step) and step > 0 for step in steps):
        raise UsageError(
            f"a spacing of {len(shape)} lengths above 0 is needed for shape {shape}, not {steps}"
        )
    with torch.no_grad():
        return torch.stack(
            [_one(image, unary, chosen, steps) for image, unary in zip(images, probabilities, strict=True)]
        )


def mean_field(unary: torch.Tensor, messages: Sequence[Message], iterations: int) -> torch.Tensor:
    """Probabilities `(pixels, classes)` after `iterations` parallel updates from log-probabilities `unary`."""
    belief = torch.softmax(unary, dim=1)
    for _ in range(iterations):
        belief = torch.softmax(unary + sum(message(belief) for message in messages), dim=1)
    return belief


def appearance_features(
    image: torch.Tensor, position: float, colour: float, spacing: Sequence[float]
) -> torch.Tensor:
    """Place and colour of each pixel over their widths, `(pixels, axes + channels)`, of `(channels, *shape)`."""
    shape = image.shape[1:]
    lines = [
        torch.arange(size, device=image.device, dtype=torch.float32) * (step / position)
        for size, step in zip(shape, spacing, strict=True)
    ]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij")).flatten(1)
    return torch.cat([places, image.float().flatten(1) / colour]).T.contiguous()


def all_pairs_filter(features: torch.Tensor) -> Message:
    """The sum `sum_j exp(-|f_i - f_j|² / 2) v_j` over all pairs, each point's own value among them."""
    rows = max(1, _PAIRS_AT_ONCE // len(features))

    def weigh(values: torch.Tensor) -> torch.Tensor:
        parts = []
        for start in range(0, len(features), rows):
            part = features[start : start + rows]
            distance = torch.cdist(part, features, compute_mode="donot_use_mm_for_euclid_dist")
            parts.append(torch.exp(distance.square() / -2) @ values)
        return torch.cat(parts)

    return weigh


def grid_filter(
    shape: Sequence[int], width: float, spacing: Sequence[float], device: torch.device
) -> Message:
    """The same sum for positions alone: one matrix for each axis, without truncation."""
    kernels = []
    for size, step in zip(shape, spacing, strict=True):
        line = torch.arange(size, device=device, dtype=torch.float32) * (step / width)
        kernels.append(torch.exp((line[:, None] - line[None]).square() / -2))

    def weigh(values: torch.Tensor) -> torch.Tensor:
        held = values.reshape(*shape, -1)
        for axis, kernel in enumerate(kernels):
            held = torch.tensordot(kernel, held, dims=([1], [axis])).movedim(0, axis)
        return held.reshape(values.shape)

    return weigh


def _one(
    image: torch.Tensor, probabilities: torch.Tensor, settings: DenseCrfSettings, spacing: Sequence[float]
) -> torch.Tensor:
    shape = image.shape[1:]
    unary = probabilities.float().flatten(1).T.clamp(min=_LEAST).log().contiguous()
    messages: list[Message] = []
    # A kernel of no weight costs nothing.
    if settings.appearance_weight > 0:
        features = appearance_features(
            image, settings.appearance_position, settings.appearance_colour, spacing
        )
        appearance: Message
        own = unary.new_ones(len(unary))
        if settings.filter == "exact":
            appearance = all_pairs_filter(features)
        else:
            lattice = PermutohedralLattice(features)
            appearance, own = lattice, lattice.own_weights()
        messages.append(_message(appearance, own, settings.appearance_weight, settings.normalisation))
    if settings.smoothness_weight > 0:
        smoothness = grid_filter(shape, settings.smoothness_position, spacing, image.device)
        own = unary.new_ones(len(unary))
        messages.append(_message(smoothness, own, settings.smoothness_weight, settings.normalisation))
    belief = mean_field(unary, messages, settings.iterations)
    return belief.T.reshape(probabilities.shape)


def _message(weigh: Message, own: torch.Tensor, weight: float, normalisation: CrfNormalisation) -> Message:
    """A filter as a kernel of the field: normalised, weighted, and without a pixel's word to itself."""
    scale = own.new_ones((len(own), 1))
    if normalisation == "symmetric":
        scale = weigh(scale).clamp(min=torch.finfo(torch.float32).tiny).rsqrt()
    myself = own.unsqueeze(1) * scale.square()

    def message(belief: torch.Tensor) -> torch.Tensor:
        return weight * (scale * weigh(scale * belief) - myself * belief)

    return message


def _checked(images: torch.Tensor, probabilities: torch.Tensor) -> tuple[int, ...]:
    shape = tuple(images.shape[2:])
    if len(shape) not in (2, 3) or 0 in images.shape:
        raise UsageError(f"images have shape (n, channels, *two or three axes), not {tuple(images.shape)}")
    if tuple(probabilities.shape[2:]) != shape or len(probabilities) != len(images):
        raise UsageError(
            f"images of shape {tuple(images.shape)} need probabilities (n, classes, *shape) of the same n and shape, "
            f"not {tuple(probabilities.shape)}"
        )
    if probabilities.shape[1] < 2:
        raise UsageError(
            "a field needs probabilities of two classes or more: give that of the background too"
        )
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise UsageError("probabilities must lie in 0..1, without NaN")
    if not bool(torch.isfinite(images).all()):
        raise UsageError("an image with NaN or infinite values has no dense field")
    return shape
