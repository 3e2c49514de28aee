"""Boxes in slices become candidates in space: hand-made cases, and balls cut into slices and put together again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medvision.core.errors import UsageError
from medvision.ops.candidates import ball_sections, merge_boxes, merge_slices, suppress

Floats = npt.NDArray[np.float64]
CUBIC = (1.0, 1.0, 1.0)


def box(layer: int, row: float, column: float, side: float = 4.0) -> list[list[float]]:
    """A square box about a centre in a slice."""
    half = side / 2
    return [[layer, row - half, column - half], [layer + 1, row + half, column + half]]


def arrays(*found: tuple[list[list[float]], float]) -> tuple[Floats, Floats]:
    return (
        np.array([place for place, _ in found], np.float64).reshape(-1, 2, 3),
        np.array([score for _, score in found], np.float64),
    )


def test_three_slices_of_one_nodule_are_one_candidate() -> None:
    boxes, scores = arrays((box(4, 20, 30, 4), 0.5), (box(5, 20, 30, 6), 0.9), (box(6, 21, 30, 4), 0.7))
    found = merge_slices(boxes, scores, (2.0, 0.5, 0.5))
    assert len(found) == 1
    assert found.slices.tolist() == [3]
    assert found.scores.tolist() == [0.9]
    assert found.diameters_mm.tolist() == [3.0]  # six pixels of half a millimetre
    # Weights are score times area: 0.5 * 16, 0.9 * 36 and 0.7 * 16.
    weights = np.array([8.0, 32.4, 11.2])
    expected = [
        (weights * [4.5, 5.5, 6.5]).sum() / weights.sum(),
        (weights * [20, 20, 21]).sum() / weights.sum(),
        30,
    ]
    np.testing.assert_allclose(found.centres, [expected])
    assert found.boxes.tolist() == [[[4, 17, 27], [7, 23, 33]]]


def test_the_score_may_be_the_mean() -> None:
    boxes, scores = arrays((box(4, 20, 30), 0.5), (box(5, 20, 30), 0.75))
    assert merge_slices(boxes, scores, CUBIC, score="mean").scores.tolist() == [0.625]


def test_side_by_side_stays_two() -> None:
    found = merge_slices(
        *arrays(*((box(k, 20, column, 8), 0.9) for k in range(5) for column in (30.0, 37.0))),
        CUBIC,
    )
    assert found.slices.tolist() == [5, 5]
    np.testing.assert_allclose(found.centres, [[2.5, 20, 30], [2.5, 20, 37]])


def test_of_two_successors_the_better_overlap_is_linked() -> None:
    boxes, scores = arrays((box(0, 20, 20, 6), 0.9), (box(1, 20, 23, 6), 0.9), (box(1, 20, 19, 6), 0.8))
    found = merge_slices(boxes, scores, CUBIC)
    assert sorted(found.slices.tolist()) == [1, 2]
    linked = found.take(found.slices == 2)
    np.testing.assert_allclose(linked.boxes[0], [[0, 17, 16], [2, 23, 23]])


@pytest.mark.parametrize(("gap", "expected"), [(1, [1, 1]), (2, [2])])
def test_a_missed_slice_is_bridged_where_asked(gap: int, expected: list[int]) -> None:
    boxes, scores = arrays((box(3, 20, 20), 0.9), (box(5, 20, 20), 0.8))
    found = merge_slices(boxes, scores, (3.0, 1.0, 1.0), gap=gap)
    assert found.slices.tolist() == expected


def test_neighbouring_slices_are_linked_before_a_gap_is_bridged() -> None:
    boxes, scores = arrays((box(3, 20, 20), 0.9), (box(4, 21, 20), 0.9), (box(5, 20, 20), 0.9))
    assert merge_slices(boxes, scores, CUBIC, gap=2).slices.tolist() == [3]


def test_small_boxes_are_linked_by_their_distance_in_millimetres() -> None:
    boxes, scores = arrays((box(0, 20, 20, 2), 0.9), (box(1, 20, 22, 2), 0.9))  # they only touch
    assert merge_slices(boxes, scores, (5.0, 0.7, 0.7)).slices.tolist() == [2]
    assert merge_slices(boxes, scores, (5.0, 0.8, 0.8)).slices.tolist() == [1, 1]
    assert merge_slices(boxes, scores, (5.0, 0.8, 0.8), reach_mm=1.6).slices.tolist() == [2]
    assert merge_slices(boxes, scores, (5.0, 0.8, 0.8), min_iou=0, reach_mm=0).slices.tolist() == [1, 1]


def test_a_duplicate_within_a_more_certain_candidate_is_dropped() -> None:
    boxes, scores = arrays((box(0, 20, 20, 8), 0.9), (box(0, 21, 20, 8), 0.8), (box(0, 20, 24.2, 8), 0.7))
    found = merge_slices(boxes, scores, CUBIC)
    # The third lies 4.2 mm from the first, whose radius is 4, and so not within.
    assert found.scores.tolist() == [0.9, 0.7]


def test_what_was_dropped_drops_nothing() -> None:
    boxes, scores = arrays((box(0, 20, 20, 8), 0.9), (box(0, 20, 23, 8), 0.8), (box(0, 20, 26, 8), 0.7))
    assert merge_slices(boxes, scores, CUBIC).scores.tolist() == [0.9, 0.7]


def test_the_order_of_boxes_makes_no_difference() -> None:
    random = np.random.default_rng(5)
    boxes, scores = arrays(
        *((box(int(k), float(r), float(c), float(s)), float(p)) for k, r, c, s, p in zip(
            random.integers(0, 12, 200), random.uniform(0, 60, 200), random.uniform(0, 60, 200),
            random.uniform(3, 9, 200), random.choice([0.3, 0.6, 0.9], 200), strict=True,
        ))
    )  # fmt: skip
    expected = merge_slices(boxes, scores, (1.25, 0.8, 0.8), gap=2)
    assert expected.slices.max() > 2
    order = random.permutation(200)
    found = merge_slices(boxes[order], scores[order], (1.25, 0.8, 0.8), gap=2)
    for name in ("centres", "diameters_mm", "scores", "boxes", "slices"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_no_candidate_holds_two_boxes_of_a_slice() -> None:
    random = np.random.default_rng(6)
    boxes, scores = arrays(
        *((box(int(k), 20.0, 20.0 + 0.1 * n, 6), 0.5) for n, k in enumerate(random.integers(0, 6, 40)))
    )
    found = merge_slices(boxes, scores, CUBIC)
    assert np.all(found.slices <= found.boxes[:, 1, 0] - found.boxes[:, 0, 0])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7), (0.6, 0.9, 0.9)])
def test_balls_cut_into_slices_are_put_together_again(spacing: tuple[float, float, float]) -> None:
    centres = np.array([[12.3, 40.2, 41.7], [14.8, 40.0, 70.0], [25.0, 15.5, 20.25]])
    diameters = np.array([12.0, 6.0, 24.0])
    cut = [ball_sections(centres, diameters, layer, spacing) for layer in range(60)]
    boxes = np.concatenate([found for found, _ in cut])
    owners = np.concatenate([owner for _, owner in cut])
    found = merge_slices(boxes, 0.9 - 0.1 * owners, spacing)
    assert len(found) == 3
    np.testing.assert_allclose(found.centres * spacing, centres * spacing, atol=0.35)
    np.testing.assert_allclose(found.diameters_mm, diameters, atol=0.4)
    assert found.slices.tolist() == [int((owners == k).sum()) for k in range(3)]


def test_a_section_is_the_circle_of_the_ball_in_the_plane() -> None:
    boxes, owners = ball_sections(
        np.array([[10.5, 20.0, 30.0], [90.0, 0.0, 0.0]]), np.array([10.0, 4.0]), 13, CUBIC
    )
    assert owners.tolist() == [0]
    np.testing.assert_allclose(
        boxes, [[[13, 16, 26], [14, 24, 34]]]
    )  # 3 from the middle of a ball of radius 5
    through_pole, _ = ball_sections(np.array([[10.5, 20.0, 30.0]]), np.array([6.0]), 13, CUBIC)
    assert through_pole.shape == (0, 2, 3)


def test_boxes_in_space_are_candidates_without_their_duplicates() -> None:
    boxes = np.array(
        [[[2, 10, 10], [6, 18, 20]], [[3, 11, 10], [6, 18, 20]], [[2, 40, 40], [4, 44, 44]]], float
    )
    found = merge_boxes(boxes, np.array([0.4, 0.6, 0.5]), (2.0, 0.5, 0.5))
    assert found.scores.tolist() == [0.6, 0.5]
    assert found.centres.tolist() == [[4.5, 14.5, 15], [3, 42, 42]]
    assert found.diameters_mm.tolist() == [(7 + 10) / 4, 2]


def test_nothing_gives_nothing() -> None:
    for found in (
        merge_slices(np.zeros((0, 2, 3)), np.zeros(0), CUBIC),
        merge_boxes(np.zeros((0, 2, 3)), np.zeros(0), CUBIC),
    ):
        assert len(suppress(found, CUBIC)) == 0
        assert found.centres.shape == (0, 3) and found.boxes.shape == (0, 2, 3)


def test_boxes_of_no_certainty_have_their_plain_centre() -> None:
    boxes, scores = arrays((box(0, 20, 20), 0.0), (box(1, 22, 20), 0.0))
    assert merge_slices(boxes, scores, CUBIC).centres.tolist() == [[1, 21, 20]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boxes": np.zeros((2, 4))}, "shapes"),
        ({"scores": np.zeros(3)}, "shapes"),
        ({"scores": np.array([0.5, np.nan])}, "finite"),
        ({"scores": np.array([0.5, -0.1])}, "below 0"),
        (
            {"boxes": np.zeros((2, 2, 3)) - [[[0.0]], [[1.0]]] + [[[0.0] * 3, [-1.0] * 3]]},
            "before they start",
        ),
        ({"spacing_mm": (0.0, 1.0, 1.0)}, "spacing"),
        ({"spacing_mm": (np.nan, 1.0, 1.0)}, "spacing"),
        ({"gap": 0}, "gap 0"),
        ({"min_iou": 1.5}, "min_iou 1.5"),
        ({"reach_mm": -1}, "reach_mm -1"),
        ({"score": "sum"}, "'sum'"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"boxes": np.zeros((2, 2, 3)), "scores": np.ones(2), "spacing_mm": CUBIC}
    with pytest.raises(UsageError, match=said):
        merge_slices(**(given | change))
