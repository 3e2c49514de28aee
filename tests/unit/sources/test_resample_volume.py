"""Resampling of volumes: each axis by its own way, against the definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvision.core.errors import SpacingError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.sources import extent_at, read_at
from medvision.sources import separable as parts
from medvision.sources.array_source import ArraySource
from medvision.sources.resample import Reading

SPACINGS = (0.5, 0.7, 1.0, 1.3, 2.0, 2.5)


def volume(
    shape: tuple[int, ...], spacing: tuple[float, ...], seed: int = 0, dtype: str = "int16"
) -> ArraySource:
    rng = np.random.default_rng(seed)
    values = rng.integers(-1000, 1500, (*shape, 1)).astype(dtype)
    return ArraySource(values, "zyx", Spacing(spacing, "mm"), fill=-1000)


def one_axis(values: np.ndarray, factor: float, i: int, fill: float) -> np.ndarray:
    """Wanted value `i` along the first axis, by the words of `medvision.sources.resample`."""
    n = len(values)

    def native(k: int) -> np.ndarray:
        return values[k] if 0 <= k < n else np.full(values.shape[1:], fill)

    whole = round(factor)
    if whole >= 1 and abs(factor / whole - 1) <= 0.01:
        first = math.floor((i + 0.5) * factor - whole / 2 + 0.5 + 5e-7)
        return sum(native(first + k) for k in range(whole)) / whole
    if factor > 1:
        a, b = i * factor, (i + 1) * factor
        shares = {k: min(b, k + 1) - max(a, k) for k in range(math.floor(a), math.ceil(b))}
        return sum(native(k) * share for k, share in shares.items()) / factor
    centre = (i + 0.5) * factor
    if not 0 <= centre < n:
        return np.full(values.shape[1:], np.nan)
    place = min(max(centre - 0.5, 0), n - 1)
    low = min(int(place), n - 1)
    high = min(low + 1, n - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def by_hand(source: ArraySource, box: Box, wanted: tuple[float, ...]) -> np.ndarray:
    values = source.array[..., 0].astype(np.float64)
    for axis in range(3):
        factor = wanted[axis] / source.spacing.values[axis]
        turned = np.moveaxis(values, axis, 0)
        turned = np.stack(
            [one_axis(turned, factor, i, source.fill) for i in range(box.start[axis], box.stop[axis])]
        )
        values = np.moveaxis(turned, 0, axis)
    return np.where(np.isnan(values), source.fill, values)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_spacing_to_any_other(data: st.DataObject):
    native = tuple(data.draw(st.sampled_from(SPACINGS)) for _ in range(3))
    wanted = tuple(data.draw(st.sampled_from(SPACINGS)) for _ in range(3))
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(3))
    source = volume(shape, native)
    start = tuple(data.draw(st.integers(-4, 6)) for _ in range(3))
    box = Box.at(start, tuple(data.draw(st.integers(1, 7)) for _ in range(3)))
    found = read_at(source, box, Spacing(wanted, "mm"))
    assert found.dtype == np.int16
    assert found.shape == (*box.shape, 1)
    assert np.abs(found[..., 0] - by_hand(source, box, wanted)).max() <= 0.5 + 2e-3


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_window_alone_is_the_same_as_cut_from_the_whole(seed: int):
    rng = np.random.default_rng(seed)
    native, wanted = (tuple(rng.choice(SPACINGS, 3).tolist()) for _ in range(2))
    source = volume((12, 15, 18), native, seed, "float32")
    spacing = Spacing(wanted, "mm")
    extent = Box((0, 0, 0), extent_at(source, spacing))
    whole = read_at(source, extent, spacing)
    start = tuple(int(rng.integers(0, n)) for n in extent.shape)
    stop = tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(start, extent.shape, strict=True))
    np.testing.assert_array_equal(
        read_at(source, Box(start, stop), spacing), whole[Box(start, stop).slices()]
    )


def test_large_windows_are_made_in_parts(monkeypatch: pytest.MonkeyPatch):
    source = volume((20, 30, 25), (2.5, 0.7, 0.7))
    box = Box((-2, -2, -2), (45, 20, 16))
    whole = read_at(source, box, 1.0)
    monkeypatch.setattr(parts, "_MOST_VALUES", 500)
    np.testing.assert_array_equal(read_at(source, box, 1.0), whole)


def test_a_straight_ramp_stays_one():
    """Values that grow evenly along an axis do so at every spacing: position is neither shifted nor scaled."""
    z = (np.arange(20) + 0.5) * 2.5
    array = np.broadcast_to(z[:, None, None, None], (20, 4, 4, 1)).astype(np.float32)
    source = ArraySource(array.copy(), "zyx", Spacing((2.5, 1.0, 1.0), "mm"), fill=0)
    fine = read_at(source, Box((2, 0, 0), (48, 4, 4)), 1.0)[:, 0, 0, 0]
    np.testing.assert_allclose(fine, np.arange(2, 48) + 0.5, rtol=1e-5)
    coarse = read_at(source, Box((0, 0, 0), (12, 1, 1)), Spacing((4.0, 1.0, 1.0), "mm"))[:, 0, 0, 0]
    # The mean over an area takes each native value as flat, which moves it by less than a tenth of a native step.
    np.testing.assert_allclose(coarse, (np.arange(12) + 0.5) * 4, atol=0.25)


def test_extent_and_factors_have_three_axes():
    source = volume((10, 20, 30), (2.5, 0.8, 0.5))
    assert extent_at(source, 1.0) == (25, 16, 15)
    reading = Reading.of(source, Spacing((2.5, 1.0, 1.0), "mm"))
    assert (reading.level, reading.factors) == (0, (1.0, 1.25, 2.0))


def test_native_spacing_is_a_plain_copy():
    source = volume((6, 7, 8), (2.5, 0.7, 0.6))
    box = Box((-1, 2, 3), (5, 9, 6))
    np.testing.assert_array_equal(read_at(source, box, source.spacing), source.read(box))


@pytest.mark.parametrize(
    ("spacing", "reason"),
    [(Spacing((1.0, 1.0, 1.0)), "3 axes in mm"), (Spacing((1.0, 1.0), "mm"), "3 axes"), (0.0, "positive"),
     (float("nan"), "positive")],
)  # fmt: skip
def test_spacings_that_do_not_fit(spacing, reason):
    with pytest.raises(UsageError, match=reason):
        read_at(volume((4, 4, 4), (1.0, 1.0, 1.0)), Box((0, 0, 0), (1, 1, 1)), spacing)


def test_a_volume_is_no_slide_for_who_wants_one():
    from medvision.sources.spacing import require_spacing

    with pytest.raises(SpacingError, match="a volume in millimetres, and a slide"):
        require_spacing(volume((4, 4, 4), (1.0, 1.0, 1.0)))


def test_16_bit_values_are_rounded_and_cut():
    found = parts.as_type(np.array([-1e6, -0.5, 0.5, 1.5, 1e6]), np.dtype(np.int16))
    np.testing.assert_array_equal(found, [-32768, 0, 0, 2, 32767])


def slices(count: int, first: int = 0, corner: tuple[int, int] = (3, 5)) -> list[Box]:
    """Windows of three planes, one for each plane, as a detector of slices has them."""
    return [Box.at((first + k, *corner), (3, 12, 14)) for k in range(count)]


class Counting(ArraySource):
    """Counts the native planes that are read, and cannot decode one of them."""

    def __init__(self, values: np.ndarray, spacing: tuple[float, ...], broken: int = 10**6) -> None:
        super().__init__(values, "zyx", Spacing(spacing, "mm"), fill=-1000)
        object.__setattr__(self, "seen", [])  # a source of an array is frozen
        object.__setattr__(self, "broken", broken)

    @property
    def planes(self) -> int:
        return sum(self.seen)

    def read(self, box: Box, level: int = 0) -> np.ndarray:
        self.seen.append(box.shape[0])
        if box.start[0] <= self.broken < box.stop[0]:
            raise WindowUnreadableError(f"plane {self.broken}")
        return super().read(box, level)


@pytest.mark.parametrize("spacing", [(2.0, 0.7, 0.7), (0.5, 0.7, 0.9), (1.0, 1.0, 1.0)])
def test_windows_that_share_planes_are_read_together_and_are_the_same(spacing: tuple[float, ...]):
    rng = np.random.default_rng(3)
    values = rng.integers(-1000, 1500, (40, 30, 40, 1)).astype(np.int16)
    source = Counting(values, spacing)
    reading = Reading.of(source, Spacing((1.25, 1.0, 1.0), "mm"))
    boxes = [*slices(5, -1), *slices(3, 7, (0, 0)), *slices(2, 5), Box.at((12, 3, 5), (3, 12, 14))]
    order = rng.permutation(len(boxes))
    out = np.empty((len(boxes), 3, 12, 14, 1), np.int16)
    assert reading.read_many([boxes[k] for k in order], out) == [None] * len(boxes)
    together = source.planes
    for k, pixels in zip(order, out, strict=True):
        np.testing.assert_array_equal(pixels, reading.read(boxes[k]))
    assert together < 0.8 * (source.planes - together)


def test_a_plane_that_cannot_be_decoded_spoils_its_windows_alone():
    values = np.arange(24 * 20 * 20, dtype=np.int16).reshape(24, 20, 20, 1)
    source = Counting(values, (1.0, 1.0, 1.0), broken=9)
    out = np.zeros((8, 3, 12, 14, 1), np.int16)
    errors = Reading.of(source, 1.0).read_many(slices(8, 4, (2, 2)), out)
    assert [error is None for error in errors] == [True, True, True, False, False, False, True, True]
    np.testing.assert_array_equal(out[0], values[4:7, 2:14, 2:16])
    np.testing.assert_array_equal(out[7], values[11:14, 2:14, 2:16])
