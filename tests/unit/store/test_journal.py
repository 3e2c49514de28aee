"""A run's journal: who keeps it, and what is left when nobody does."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from medvision.store import journal as module
from medvision.store.journal import Journal, unfinished


def test_a_run_that_begins_is_never_taken_for_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever another run sees between the steps of the first: it removes what it takes for dead."""
    seen: list[list[Journal]] = []

    class Looking(FileLock):
        def acquire(self, *args: object, **more: object) -> object:
            seen.append(unfinished(tmp_path))
            got = super().acquire(*args, **more)  # type: ignore[arg-type]
            seen.append(unfinished(tmp_path))
            return got

    monkeypatch.setattr(module, "FileLock", Looking)
    with Journal(tmp_path, "R1").kept():
        monkeypatch.setattr(module, "FileLock", FileLock)
        assert Journal(tmp_path, "R1").alive and not Journal(tmp_path, "R1").stopping
        assert unfinished(tmp_path) == []
    assert seen == [[], []]
    assert [journal.run_id for journal in unfinished(tmp_path)] == ["R1"]
    Journal(tmp_path, "R1").remove()
    assert unfinished(tmp_path) == []
