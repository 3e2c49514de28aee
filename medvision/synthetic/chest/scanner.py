"""What the scanner makes of tissue: slice profile, point spread, edge enhancement, noise."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, exp

import numpy as np

from medvision.synthetic.chest.body import Body
from medvision.synthetic.chest.frame import Frame
from medvision.synthetic.chest.recipe import KERNELS
from medvision.synthetic.noise import Floats, Image, key

_ALONG_MM = 0.45
"""Blur along the patient beyond the thickness of a slice, from the focal spot and the helix (standard deviation)."""
_NOISE_ALONG_MM = 0.7
"""Over what distance the noise of neighbouring slices agrees, for the same reason (standard deviation)."""
_REFERENCE_MM = 1.25
"""The slice thickness at which a kernel's noise is stated."""


class Scanner:
    """Blur and noise of one recipe. Noise depends on the seed and the slice, so slices can be drawn in any order."""

    def __init__(self, frame: Frame, body: Body) -> None:
        self._frame, self._body = frame, body
        recipe = frame.recipe
        self._kernel = KERNELS[recipe.kernel]
        self._profile = _profile(frame.parts, frame.step[0])
        self.halo = (len(self._profile) - frame.parts) // 2
        thickness = max(recipe.spacing_mm[0], 0.6)
        self._sigma = self._kernel.noise_hu * (_REFERENCE_MM / thickness / recipe.dose) ** 0.5
        # Noise is quietest in air, where `haze` is 0; the kernel's figure is for the middle of a body.
        self._sigma *= exp(-float(np.quantile(body.haze, 0.9)))
        self._mix = _mixture(recipe.spacing_mm[0])

    def scan(self, tissue: Image, first: int, last: int) -> Image:
        """HU of slices `first` to `last` from drawn slices that begin `halo` before and end `halo` after them."""
        parts = self._frame.parts
        planes = np.empty((last - first, *tissue.shape[1:]), np.float32)
        for k in range(last - first):
            stack = tissue[k * parts : k * parts + len(self._profile)]
            planes[k] = np.tensordot(self._profile, stack, axes=1)
            self._sharpen(planes[k])
        self._add_noise(planes, first)
        return planes

    def _sharpen(self, plane: Image) -> None:
        import cv2

        side = self._frame.step[1]
        kernel = self._kernel
        blurred = np.asarray(cv2.GaussianBlur(plane, (0, 0), kernel.blur_mm / side), np.float32)
        if kernel.enhance:
            wider = cv2.GaussianBlur(blurred, (0, 0), 1.3 * kernel.blur_mm / side)
            blurred += np.float32(kernel.enhance) * (blurred - wider)
        plane[:] = blurred

    def _add_noise(self, planes: Image, first: int) -> None:
        import cv2
        from scipy import fft

        rows, columns = planes.shape[1:]
        reach = len(self._mix) // 2
        response = _response(rows, columns, self._frame.step[1], self._kernel.peak)
        white = {k: self._white(k) for k in range(first - reach, first + reach)}
        z_step, depth = self._frame.lattice_step[0], self._frame.lattice_shape[0]
        for k in range(len(planes)):
            white[first + k + reach] = self._white(first + k + reach)
            mixed = sum(w * white[first + k + j - reach] for j, w in enumerate(self._mix))
            white.pop(first + k - reach)
            textured = fft.irfft2(fft.rfft2(mixed) * response, s=(rows, columns))
            node = int((first + k + 0.5) * self._frame.recipe.spacing_mm[0] / z_step)
            haze = cv2.resize(
                self._body.haze[min(node, depth - 1)], (columns, rows), interpolation=cv2.INTER_LINEAR
            )
            planes[k] += np.float32(self._sigma) * np.exp(haze) * textured

    def _white(self, number: int) -> Image:
        recipe = self._frame.recipe
        rng = np.random.Generator(np.random.Philox(key=key(recipe.seed, 0x4015E, number)))
        return rng.standard_normal(recipe.shape[1:], dtype=np.float32)


def _profile(parts: int, step: float) -> Image:
    """Weights of drawn slices for one slice: its own thickness, spread by the blur along the patient."""
    halo = ceil(2.5 * _ALONG_MM / step)
    centres = (np.arange(parts + 2 * halo) - halo - (parts - 1) / 2) * step
    inside = (np.arange(parts) - (parts - 1) / 2) * step
    weights = np.exp(-(((centres[:, None] - inside[None, :]) / _ALONG_MM) ** 2) / 2).sum(axis=1)
    return np.asarray(weights / weights.sum(), np.float32)


def _mixture(spacing: float) -> Floats:
    """Weights of neighbouring slices' white noise; their squares add up to 1."""
    reach = min(4, ceil(2 * _NOISE_ALONG_MM / spacing))
    weights = np.exp(-((np.arange(-reach, reach + 1) * spacing / _NOISE_ALONG_MM) ** 2) / 2)
    return np.asarray(weights / np.sqrt((weights**2).sum()), np.float32)


@lru_cache(maxsize=4)
def _response(rows: int, columns: int, side: float, peak: float) -> Image:
    """Gain of white noise, of unit variance: rises as filtered back-projection's ramp, falls as the kernel does."""
    fy, fx = np.fft.fftfreq(rows, side)[:, None], np.fft.rfftfreq(columns, side)[None, :]
    frequency = np.sqrt(fy**2 + fx**2)
    gain = np.sqrt(frequency + 0.02) * np.exp(-((frequency / peak) ** 2) / 4)
    both = np.where((fx > 0) & (fx < 0.5 / side - 1e-9), 2.0, 1.0)
    power = float((gain**2 * both).sum()) / (rows * columns)
    return np.asarray(gain / np.sqrt(power), np.float32)
