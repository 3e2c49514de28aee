"""Random changes of H&E windows that keep their label: what differs between laboratories, scanners and mountings.

Everything works on a batch `(n, 3, rows, columns)`, float 0..1, and draws from one generator, so that a seed fixes it.
Colour is changed in optical density, where stains add up (Ruifrok and Johnston 2001; the jitter after Tellez et al.,
"Quantifying the effects of data augmentation and stain color normalization", MedIA 2019).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional

from medvision.ops.stain import HED
from medvision.training.patch_config import AugmentationConfig


def augment(
    windows: torch.Tensor, labels: torch.Tensor, how: AugmentationConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Changed windows of the same shape, and their labels `(n,)`."""
    windows = turn(windows, generator)
    windows, labels = mix(windows, labels, how.mix, generator)
    windows = recolour(windows, how.recolour, generator)
    windows = zoom(windows, how.scale, generator)
    windows = restain(windows, how, generator)
    windows, labels = blank(windows, labels, how.blank, generator)
    windows = blur(windows, how.blur, how.blur_sigma_px, generator)
    sigma = _uniform(len(windows), 0, how.noise, generator)
    windows = windows + sigma[:, None, None, None] * torch.randn(windows.shape, generator=generator)
    return jpeg(windows.clamp(0, 1), how.jpeg, generator), labels


def turn(windows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each window in one of its eight orientations."""
    which = torch.randint(8, (len(windows),), generator=generator)
    turned = [torch.rot90(w, int(k) % 4, (1, 2)) for w, k in zip(windows, which, strict=True)]
    return torch.stack([w.flip(2) if k >= 4 else w for w, k in zip(turned, which, strict=True)])


def mix(
    windows: torch.Tensor, labels: torch.Tensor, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace 30 to 70% of some windows, in blobs, by another window of the batch in the first one's colours.

    The label is the larger of the two: a window that is one third tumour is tumour. Because both parts then have one
    stain, what tells the classes apart cannot be the stain.
    """
    count, _, rows, columns = windows.shape
    partner = torch.randperm(count, generator=generator)
    chosen = torch.nonzero(torch.rand(count, generator=generator) < share).flatten()
    field = torch.randn((len(chosen), 1, 4, 4), generator=generator)
    level = _uniform((len(chosen), 1, 1, 1), -0.3, 0.3, generator)
    if len(chosen) == 0:
        return windows, labels
    field = functional.interpolate(field, (rows, columns), mode="bicubic", align_corners=False)
    field = (field - field.mean((2, 3), keepdim=True)) / field.std((2, 3), keepdim=True)
    weight = torch.sigmoid((field - level) / 0.05)
    first, second = windows[chosen], windows[partner[chosen]]
    mixed, both = windows.clone(), labels.clone()
    mixed[chosen] = weight * match_colours(second, first) + (1 - weight) * first
    both[chosen] = torch.maximum(labels[chosen], labels[partner[chosen]])
    return mixed, both


def recolour(windows: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Give some windows the colours of others, part of the way, so that no class keeps the stain of its slides."""
    partner = torch.randperm(len(windows), generator=generator)
    chosen = torch.nonzero(torch.rand(len(windows), generator=generator) < share).flatten()
    way = _uniform((len(chosen), 1, 1, 1), 0.3, 1, generator)
    if len(chosen) == 0:
        return windows
    changed = windows.clone()
    part = windows[chosen]
    changed[chosen] = part + way * (match_colours(part, windows[partner[chosen]]) - part)
    return changed


def zoom(windows: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
    """Change magnification and position slightly, mirrored beyond the border. A third of the windows stay."""
    moved = torch.nonzero(torch.rand(len(windows), generator=generator) < 2 / 3).flatten()
    if len(moved) == 0:
        return windows
    factor = torch.exp(_uniform(len(moved), -1, 1, generator) * float(np.log1p(scale)))
    theta = torch.zeros(len(moved), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / factor
    theta[:, :, 2] = _uniform((len(moved), 2), -0.1, 0.1, generator)
    part = windows[moved]
    grid = functional.affine_grid(theta, list(part.shape), align_corners=False)
    zoomed = windows.clone()
    zoomed[moved] = functional.grid_sample(
        part, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    ).clamp(0, 1)
    return zoomed


def restain(windows: torch.Tensor, how: AugmentationConfig, generator: torch.Generator) -> torch.Tensor:
    """Vary strength and colour of the stains; turn some windows to a single tinted density."""
    count = len(windows)
    stains = torch.tensor(HED)
    stains = stains / stains.norm(dim=1, keepdim=True)
    density = -torch.log(windows.clamp(1 / 255, 1)).permute(0, 2, 3, 1)
    amounts = density @ torch.linalg.inv(stains)
    gain = 1 + _uniform((count, 1, 1, 3), -how.stain_scale, how.stain_scale, generator)
    shift = _uniform((count, 1, 1, 3), -how.stain_shift, how.stain_shift, generator)
    tissue = (amounts.clamp_min(0).sum(dim=-1, keepdim=True) * 4).clamp(0, 1)
    density = (amounts * gain + shift * tissue) @ stains
    density = density * (1 + _uniform((count, 1, 1, 3), -how.colour_scale, how.colour_scale, generator))
    tint = _uniform((count, 1, 1, 3), 0.5, 1.5, generator)
    single = density.mean(dim=-1, keepdim=True) * tint
    grey = torch.rand(count, generator=generator) < how.grey
    density = torch.where(grey[:, None, None, None], single, density)
    return torch.exp(-density.clamp_min(0)).permute(0, 3, 1, 2)


def blank(
    windows: torch.Tensor, labels: torch.Tensor, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace some windows by empty glass of any light tone, with the first class as label."""
    chosen = torch.rand(len(windows), generator=generator) < share
    tone = _uniform((len(windows), 1, 1, 1), 0.75, 1, generator) + _uniform(
        (len(windows), 3, 1, 1), -0.03, 0.03, generator
    )
    glass = tone.clamp(0, 1).expand_as(windows)
    return torch.where(chosen[:, None, None, None], glass, windows), torch.where(chosen, 0, labels)


def blur(windows: torch.Tensor, share: float, sigma_px: float, generator: torch.Generator) -> torch.Tensor:
    """Blur some windows by a Gaussian of up to `sigma_px`, each by its own."""
    count, channels = windows.shape[:2]
    sigma = _uniform(count, 0.3, max(sigma_px, 0.31), generator)
    chosen = torch.rand(count, generator=generator) < share
    if not chosen.any():
        return windows
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    line = torch.exp(-(offsets**2) / (2 * sigma[chosen, None] ** 2))
    line = line / line.sum(dim=1, keepdim=True)
    kernels = line.repeat_interleave(channels, dim=0)
    part = windows[chosen]
    flat = functional.pad(part.reshape(1, -1, *part.shape[2:]), (3, 3, 3, 3), mode="reflect")
    flat = functional.conv2d(flat, kernels[:, None, None, :], groups=len(kernels))
    flat = functional.conv2d(flat, kernels[:, None, :, None], groups=len(kernels))
    changed = windows.clone()
    changed[chosen] = flat.reshape(part.shape)
    return changed


def jpeg(windows: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Compress some windows as JPEG of quality 30 to 90 and decode them again."""
    chosen = torch.rand(len(windows), generator=generator) < share
    quality = torch.randint(30, 91, (len(windows),), generator=generator)
    changed = windows.clone()
    for index in torch.nonzero(chosen).flatten().tolist():
        pixels = (windows[index] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        _, code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality[index])])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        changed[index] = torch.from_numpy(np.asarray(decoded, np.float32) / 255).permute(2, 0, 1)
    return changed


def match_colours(windows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`windows` with the mean and spread of the optical densities of `target`, channel by channel.

    `target` holds one window for each, or one for all. After Reinhard et al. 2001, in density instead of l-alpha-beta.
    """
    density = -torch.log(windows.clamp(1 / 255, 1))
    wanted = -torch.log(target.clamp(1 / 255, 1))
    mean, spread = density.mean((2, 3), keepdim=True), density.std((2, 3), keepdim=True)
    factor = (wanted.std((2, 3), keepdim=True) / spread.clamp_min(0.02)).clamp(0.5, 2)
    return torch.exp(-((density - mean) * factor + wanted.mean((2, 3), keepdim=True)).clamp_min(0))


def _uniform(
    shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
