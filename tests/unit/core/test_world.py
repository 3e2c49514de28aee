"""Voxels and millimetres: against arithmetic by hand, and against nibabel's."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvision.core.world import WorldFrame, from_matrix, lps_from_ras, opposite

STRAIGHT = WorldFrame((-10.0, -20.0, 30.0), (2.5, 0.5, 0.7), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))


def turned(seed: int) -> WorldFrame:
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return WorldFrame(
        tuple(rng.normal(0, 100, 3).tolist()),
        tuple(rng.uniform(0.3, 3, 3).tolist()),
        tuple(tuple(row) for row in axes.tolist()),
    )


def test_a_straight_frame_by_hand():
    # The centre of voxel (plane 2, row 4, column 1) lies two planes, four rows and one column from the origin.
    np.testing.assert_allclose(STRAIGHT.to_world((2.5, 4.5, 1.5)), (-10 + 0.7, -20 + 2.0, 30 + 5.0))
    np.testing.assert_allclose(STRAIGHT.to_world((0, 0, 0)), (-10.35, -20.25, 28.75))  # the corner
    np.testing.assert_allclose(
        STRAIGHT.to_voxels([[-9.3, -18, 35], [-10, -20, 30]]), [[2.5, 4.5, 1.5], [0.5] * 3]
    )
    assert STRAIGHT.letters == "SPL"
    assert STRAIGHT.obliqueness == 0


def test_the_header_of_a_luna16_scan_by_hand():
    """Offset, spacing and a nodule's place as LUNA16 gives them: voxel = (world - offset) / spacing, from centres."""
    frame = WorldFrame(
        (-198.100006, -195.0, -335.209991), (2.5, 0.7617189884, 0.7617189884), STRAIGHT.directions
    )
    x, y, z = -100.5679454, 67.26051683, -231.816619
    expected = ((z + 335.209991) / 2.5, (y + 195.0) / 0.7617189884, (x + 198.100006) / 0.7617189884)
    np.testing.assert_allclose(frame.to_voxels((x, y, z)) - 0.5, expected, rtol=1e-12)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_there_and_back(seed: int):
    frame = turned(seed)
    points = np.random.default_rng(seed).normal(0, 200, (7, 3))
    np.testing.assert_allclose(frame.to_world(frame.to_voxels(points)), points, atol=1e-9)
    np.testing.assert_allclose(frame.to_voxels(frame.to_world(points)), points, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_matrix_in_ras_is_nibabel_s(seed: int):
    """The frame of an array (k, j, i), against nibabel's own mapping of (i, j, k) to RAS and its letters."""
    frame = turned(seed)
    affine = np.eye(4)
    affine[:3, :3] = (np.array(frame.directions) * np.array(frame.spacing)[:, None])[::-1].T
    affine[:3, 3] = frame.origin
    ras = np.diag([-1, -1, 1, 1]) @ affine
    found = from_matrix(lps_from_ras(ras))
    index = np.random.default_rng(seed).integers(0, 50, 3)
    x, y, z = nibabel.affines.apply_affine(ras, index)
    np.testing.assert_allclose(found.to_world(index[::-1] + 0.5), (-x, -y, z), atol=1e-8)
    if frame.obliqueness < 30:  # beyond, which axis leads where is a matter of rule
        assert found.letters == "".join(nibabel.aff2axcodes(ras))[::-1]
    np.testing.assert_array_equal(lps_from_ras(lps_from_ras(ras)), ras)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_upright_keeps_every_voxel_in_its_place(seed: int):
    frame = turned(seed)
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3).tolist())
    order, flips = frame.upright()
    made = frame.rearranged(shape, order, flips)
    index = np.stack([axis.ravel() for axis in np.indices(shape)], axis=1)
    where = np.empty((*shape, 3))
    where[tuple(index.T)] = frame.to_world(index + 0.5)
    moved = np.flip(where.transpose(*order, 3), [k for k, flip in enumerate(flips) if flip])
    again = np.stack([axis.ravel() for axis in np.indices(moved.shape[:3])], axis=1)
    np.testing.assert_allclose(made.to_world(again + 0.5), moved.reshape(-1, 3), atol=1e-9)
    assert made.upright() == ((0, 1, 2), (False, False, False))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_all_48_orders_become_upright(order: tuple[int, ...], flips: tuple[bool, ...]):
    other = STRAIGHT.rearranged((4, 5, 6), order, flips)
    shape = tuple((4, 5, 6)[axis] for axis in order)
    made = other.rearranged(shape, *other.upright())
    assert made.letters == "SPL"
    np.testing.assert_allclose(made.origin, STRAIGHT.origin, atol=1e-12)
    assert made.spacing == STRAIGHT.spacing


def test_another_spacing_begins_at_the_same_corner():
    frame = turned(3)
    other = frame.at((1.0, 1.0, 1.0))
    np.testing.assert_allclose(other.to_world((0, 0, 0)), frame.to_world((0, 0, 0)))
    point = np.array([7.3, 2.1, 9.9])
    np.testing.assert_allclose(other.to_voxels(frame.to_world(point)), point * frame.spacing)


def test_a_crop_knows_its_place():
    frame = turned(4)
    np.testing.assert_allclose(frame.shifted((3, 4, 5)).to_world((1, 1, 1)), frame.to_world((4, 5, 6)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spacing": (0.0, 1.0, 1.0)}, "not positive"),
        ({"spacing": (-1.0, 1.0, 1.0)}, "not positive"),
        ({"spacing": (float("nan"), 1.0, 1.0)}, "not positive"),
        ({"origin": (float("inf"), 0.0, 0.0)}, "not finite"),
        ({"directions": ((0, 0, 0), (0, 1, 0), (1, 0, 0))}, "finite vectors"),
        ({"directions": ((0, 0.2, 1), (0, 1, 0), (1, 0, 0))}, r"78.69 degrees"),
        ({"directions": ((0, 0, 1), (0, 0, 1), (1, 0, 0))}, "right angle"),
    ],
)
def test_what_is_no_grid_is_refused(change: dict[str, tuple[float, ...]], reason: str):
    given = {
        "origin": (0.0, 0.0, 0.0),
        "spacing": (1.0, 1.0, 1.0),
        "directions": STRAIGHT.directions,
    } | change
    with pytest.raises(ValueError, match=reason):
        WorldFrame(**given)  # type: ignore[arg-type]


def test_opposites():
    assert [opposite(name) for name in "LRAPSI"] == list("RLPAIS")
    with pytest.raises(ValueError, match="none of"):
        opposite("X")
