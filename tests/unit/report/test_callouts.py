"""Numbers beside spots: none covers another one or a spot, and each is on its own line."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from medvision.report.callouts import LABEL_HEIGHT, SPOT_RADIUS, Callout, place_labels

SIZE = (720.0, 540.0)
BAR = (0.0, 480.0, 220.0, 540.0)


def spots_in(low: float, high: float, count: int) -> list[Callout]:
    places = np.random.default_rng(3).uniform(low, high, (count, 2)).round(2)
    return [Callout(k, x, y, True) for k, (x, y) in enumerate(places.tolist(), 1)]


def crossing(a: Callout, b: Callout) -> bool:
    """Whether the lines of two labels cross, by solving for the point."""
    assert a.label and b.label
    first, second = np.subtract(a.label, (a.x, a.y)), np.subtract(b.label, (b.x, b.y))
    both = np.stack([first, -second], axis=1)
    if abs(np.linalg.det(both)) < 1e-9:
        return False
    shares = np.linalg.solve(both, np.subtract((b.x, b.y), (a.x, a.y)))
    return bool(((shares > 1e-9) & (shares < 1 - 1e-9)).all())


@pytest.mark.parametrize(("low", "high", "least"), [(100, 400, 26), (200, 260, 10), (20, 520, 26)])
def test_labels_cover_nothing_and_their_lines_do_not_cross(low: float, high: float, least: int) -> None:
    placed = place_labels(spots_in(low, high, 32), SIZE, [BAR])
    shown = [one for one in placed if one.label]
    assert len(shown) >= least and [one.number for one in placed] == list(range(1, 33))
    for one in shown:
        left, top, right, bottom = one.rect or (0, 0, 0, 0)
        assert left >= 0 and top >= 0 and right <= SIZE[0] and bottom <= SIZE[1]
        assert left >= BAR[2] or bottom <= BAR[1], "the scale bar stays free"
        for spot in placed:
            away = max(left - spot.x, spot.x - right, top - spot.y, spot.y - bottom)
            assert away > SPOT_RADIUS, f"{one.number} covers the spot of {spot.number}"
    for a, b in combinations(shown, 2):
        apart = np.abs(np.subtract(a.label or (), b.label or ()))
        assert apart[0] >= (a.width + b.width) / 2 or apart[1] >= LABEL_HEIGHT
        assert not crossing(a, b), f"the lines of {a.number} and {b.number} cross"


def test_a_spot_alone_has_its_number_near() -> None:
    (one,) = place_labels([Callout(7, 300.0, 200.0, False)], SIZE)
    assert one.label is not None and np.hypot(one.label[0] - 300, one.label[1] - 200) < 25
    assert place_labels([], SIZE) == ()


def test_only_so_many_are_numbered_and_those_without_room_are_not() -> None:
    placed = place_labels(spots_in(100, 400, 9), SIZE, most=4)
    assert [one.label is not None for one in placed] == [True] * 4 + [False] * 5
    assert place_labels([Callout(1, 5.0, 5.0, True)], (20.0, 20.0))[0].label is None


def test_the_first_spots_have_the_first_right_to_a_place() -> None:
    """Of a hundred spots in a heap the surest are numbered, where there is no room for all."""
    placed = place_labels(spots_in(250, 300, 100), SIZE)
    assert all(one.label for one in placed[:3]) and not all(one.label for one in placed)
