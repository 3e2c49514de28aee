"""Lungs of a phantom whose volumes are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.ops.lungs import LungSettings, lung_mask
from medvision.ops.window import HU_WINDOWS, between

SPACING = (3.0, 2.0, 2.0)
SHAPE = (60, 90, 120)


def grid_mm() -> tuple[np.ndarray, ...]:
    return tuple((np.arange(n) + 0.5) * s for n, s in zip(SHAPE, SPACING, strict=True))


def ball(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    z, y, x = np.meshgrid(*grid_mm(), indexing="ij")
    return sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) < 1


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A body with two lungs, vessels, a nodule in a lung and one at its wall, a bowel with air, and a table."""
    rng = np.random.default_rng(0)
    body = ball((90, 90, 120), (400, 75, 105))
    lungs = ball((95, 90, 70), (70, 50, 38)) | ball((95, 90, 170), (70, 50, 38))
    values = np.where(body, 40.0, -1000.0)
    values[lungs] = -850
    nodules = ball((95, 90, 70), (8, 8, 8)) | ball((95, 90, 104), (6, 6, 6))
    values[nodules] = 30
    values[:, 44:46, 20:50] = np.where(lungs[:, 44:46, 20:50], 40, values[:, 44:46, 20:50])  # a vessel
    values[ball((20, 120, 120), (10, 10, 10))] = -900  # bowel
    values[:, -4:] = 100  # the table
    return (values + rng.normal(0, 30, SHAPE)).astype(np.int16), lungs, nodules


def test_both_lungs_with_what_lies_in_them(phantom):
    values, lungs, nodules = phantom
    found = lung_mask(values, SPACING)
    dice = 2 * (found & lungs).sum() / (found.sum() + lungs.sum())
    assert dice > 0.97
    assert found[nodules & ball((95, 90, 70), (9, 9, 9))].all()
    assert found[nodules & lungs].mean() > 0.9
    assert not found[ball((20, 120, 120), (10, 10, 10))].any()
    assert not found[:, :5].any()  # the air around


def test_without_the_closing_the_nodule_at_the_wall_is_left_out(phantom):
    values, lungs, _ = phantom
    at_wall = ball((95, 90, 104), (6, 6, 6)) & lungs
    assert lung_mask(values, SPACING)[at_wall].mean() > 0.75
    assert lung_mask(values, SPACING, LungSettings(closing_mm=0.1))[at_wall].mean() < 0.4


def test_one_lung_cut_off_by_the_scan(phantom):
    values, lungs, _ = phantom
    found = lung_mask(values[20:], SPACING)
    assert 2 * (found & lungs[20:]).sum() / (found.sum() + lungs[20:].sum()) > 0.97


def test_no_lungs_no_mask():
    assert not lung_mask(np.full((10, 30, 30), 40, np.int16), (1.0, 1.0, 1.0)).any()
    assert not lung_mask(np.full((10, 30, 30), -1000, np.int16), (1.0, 1.0, 1.0)).any()


@pytest.mark.parametrize(
    ("shape", "spacing"), [((5, 5), (1, 1, 1)), ((5, 5, 5), (1, 1)), ((5, 5, 5), (1, 0, 1))]
)
def test_what_is_no_volume(shape, spacing):
    with pytest.raises(UsageError, match="no volume"):
        lung_mask(np.zeros(shape, np.int16), spacing)


@pytest.mark.shared
def test_a_head_has_no_lungs(shared: Path):
    from medvision.core.geometry import Box
    from medvision.sources.volume import open_volume

    volume = open_volume(shared / "volumes" / "pydicom" / "CT_small.dcm")
    values = volume.read(Box((0, 0, 0), volume.levels[0].shape))[..., 0]
    assert not lung_mask(values, volume.spacing.values).any()


def test_windows_by_hand():
    low, high = HU_WINDOWS["lung"]
    values = np.array([[[-2000, -1000, -300], [400, 401, 3000]]], np.int16)
    np.testing.assert_array_equal(between(values, low, high), [[[0, 0, 128], [255, 255, 255]]])
    np.testing.assert_array_equal(between(np.array([np.nan, 5.0]), 0, 10), [0, 128])
