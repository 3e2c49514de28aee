"""Which items of a batch lost their workers, and which item is to blame.

When a pool of processes breaks, every item at work is lost together with the one that broke it, and none of them can
be told from that one. Each is tried alone from then on, after the others: an item is given up only if a worker was lost
that had no other item beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medvision.pipelines.batch_plan import BatchItem
from medvision.store.journal import Entry


class Losses:
    """The attempts of a run that never ended. `together` says that one lost worker takes the others with it."""

    def __init__(self, *, together: bool) -> None:
        self._together = together
        self._alone = False
        self._known: set[str] = set()
        self._lost: set[int] = set()
        self._blamed: set[int] = set()

    def note(self, lost: Iterable[Entry]) -> None:
        """Tell the attempts that have not ended, once no worker is at any; those told before are left out."""
        new = [entry for entry in lost if entry.id not in self._known]
        self._known.update(entry.id for entry in new)
        numbers = {entry.number for entry in new}
        self._lost |= numbers
        if len(numbers) == 1 or self._alone or not self._together:
            self._blamed |= numbers

    def is_to_blame(self, item: BatchItem) -> bool:
        """Whether the item lost a worker that no other item can have cost it."""
        return item.number in self._blamed

    def next_round(self, waiting: Sequence[BatchItem]) -> tuple[list[BatchItem], bool]:
        """Those to work on next, and whether one after the other."""
        if not self._together:
            return list(waiting), False
        unsuspected = [item for item in waiting if item.number not in self._lost]
        self._alone = not unsuspected
        return (unsuspected, False) if unsuspected else (list(waiting), True)


def lost_reason(times: int) -> str:
    """Why an item is given up whose worker was lost so often."""
    return f"its worker was lost {times} time{'s' * (times != 1)}: killed, out of memory, or crashed"
