"""The sink of long vectors: rows in the plan's order whatever the order they come in, and progress that survives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.engine.plan import TilePlan, grid
from medvision.engine.rows import RowsSink
from medvision.engine.sinks import Windows


def plan() -> TilePlan:
    return grid("s", (40, 30), (10, 10))


def group(of: TilePlan, indices: list[int]) -> Windows:
    index = np.array(indices, np.int64)
    return Windows(index, of.boxes[index], of.cores[index])


def vectors(indices: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([[k, k + 0.5] for k in indices], np.float32)


def test_rows_are_in_the_plans_order_and_what_never_came_is_nan(tmp_path: Path) -> None:
    sink = RowsSink(plan(), 2, tmp_path / "rows")
    sink.add(group(plan(), [7, 2]), vectors([7, 2]))
    sink.add(group(plan(), [0]), vectors([0]))
    sink.unread(group(plan(), [5]))
    found = np.array(sink.finish())
    assert found.shape == (12, 2)
    np.testing.assert_array_equal(found[[0, 2, 7]], vectors([0, 2, 7]))
    assert np.isnan(found[[1, 3, 4, 5, 6, 8, 9, 10, 11]]).all()


def test_a_restart_finds_the_rows_in_the_file(tmp_path: Path) -> None:
    first = RowsSink(plan(), 2, tmp_path / "rows")
    first.add(group(plan(), [1, 3]), vectors([1, 3]))
    state = {name: value.copy() for name, value in first.state().items()}
    first.add(group(plan(), [4]), vectors([4]))  # after the checkpoint: to be done again
    second = RowsSink(plan(), 2, tmp_path / "rows")
    second.restore(state)
    second.add(group(plan(), [0]), vectors([0]))
    found = np.array(second.finish())
    np.testing.assert_array_equal(found[[0, 1, 3]], vectors([0, 1, 3]))
    assert np.isnan(found[4]).all()


def test_progress_without_its_file_is_refused(tmp_path: Path) -> None:
    sink = RowsSink(plan(), 2, tmp_path / "rows")
    with pytest.raises(ValueError, match="does not hold"):
        sink.restore({"done": np.ones(12, bool)})


def test_vectors_of_another_length_are_refused(tmp_path: Path) -> None:
    sink = RowsSink(plan(), 3, tmp_path / "rows")
    with pytest.raises(UsageError, match="3 features"):
        sink.add(group(plan(), [0]), vectors([0]))


def test_a_plan_without_windows_gives_an_empty_table(tmp_path: Path) -> None:
    empty = plan().keep(np.zeros(12, bool))
    assert RowsSink(empty, 4, tmp_path / "rows").finish().shape == (0, 4)
