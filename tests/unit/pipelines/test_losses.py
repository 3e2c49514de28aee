"""Which slide is to blame for a lost worker, and that no run goes on for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medvision.pipelines.batch_plan import BatchItem
from medvision.pipelines.losses import Losses, lost_reason
from medvision.store.journal import Entry

SLIDES = [BatchItem(number, f"s{number}", f"s{number}", Path(f"s{number}.svs")) for number in range(1, 7)]
A, B, C, D, E, F = SLIDES


def entry(slide: BatchItem, attempt: int) -> Entry:
    return Entry(
        number=slide.number,
        attempt=attempt,
        slide_id=slide.item_id,
        name=slide.name,
        began_utc="2026-01-31T12:00:00Z",
        worker="here:1",
    )


def test_of_a_pool_that_breaks_nobody_is_blamed_until_one_was_lost_alone() -> None:
    losses = Losses(together=True)
    assert losses.next_round(SLIDES) == (SLIDES, False)
    losses.note([entry(A, 1), entry(B, 1)])
    assert not any(map(losses.is_to_blame, SLIDES))
    assert losses.next_round(SLIDES) == ([C, D, E, F], False), "those that were lost come last"

    losses.note([entry(A, 1), entry(B, 1)])  # told again; nothing was lost since
    assert losses.next_round([A, B]) == ([A, B], True), "and then one after the other"
    losses.note([entry(A, 1), entry(B, 1), entry(B, 2)])
    assert [losses.is_to_blame(slide) for slide in (A, B)] == [False, True]
    assert losses.next_round([A, B]) == ([A, B], True)


def test_one_that_was_alone_is_to_blame_at_once() -> None:
    losses = Losses(together=True)
    losses.note([entry(C, 1), entry(C, 2)])  # one slide, however often
    assert [slide for slide in SLIDES if losses.is_to_blame(slide)] == [C]
    assert losses.next_round([B, C]) == ([B], False)
    assert losses.next_round([C]) == ([C], True)


def test_all_that_are_lost_one_after_the_other_are_to_blame() -> None:
    """A worker that ends every attempt by an error loses them all in one round, and each was alone."""
    losses = Losses(together=True)
    losses.note([entry(A, 1), entry(B, 1)])
    assert losses.next_round([A, B]) == ([A, B], True)
    losses.note([entry(slide, attempt) for slide in (A, B) for attempt in (1, 2)])
    assert losses.is_to_blame(A) and losses.is_to_blame(B)


def test_one_lost_among_others_again_is_not_to_blame() -> None:
    losses = Losses(together=True)
    losses.note([entry(A, 1), entry(B, 1)])
    assert losses.next_round([A, B]) == ([A, B], True)
    losses.note([entry(A, 1), entry(B, 1)])  # neither began
    assert losses.next_round([A, B, C]) == ([C], False)
    losses.note([entry(A, 1), entry(B, 1), entry(C, 1), entry(D, 1)])
    assert not losses.is_to_blame(C) and not losses.is_to_blame(D)


def test_workers_that_are_lost_each_by_itself_are_blamed_at_once() -> None:
    losses = Losses(together=False)
    losses.note([entry(A, 1), entry(B, 1)])
    assert [slide for slide in SLIDES if losses.is_to_blame(slide)] == [A, B]
    assert losses.next_round(SLIDES) == (SLIDES, False)


def test_nothing_lost_changes_nothing() -> None:
    losses = Losses(together=True)
    losses.note([])
    assert not any(map(losses.is_to_blame, SLIDES))
    assert losses.next_round([A, B]) == ([A, B], False)
    assert losses.next_round([])[0] == []


Kills = Callable[[int, int], bool]


@pytest.mark.parametrize(
    ("kills", "failed"),
    [
        pytest.param(lambda number, _attempt: number == 2, [2], id="one kills its worker each time"),
        pytest.param(lambda number, _attempt: number in (2, 3), [2, 3], id="two neighbours do"),
        pytest.param(lambda number, attempt: number == 2 and attempt == 1, [], id="once"),
        pytest.param(lambda *_: True, [1, 2, 3, 4, 5, 6], id="all"),
        pytest.param(lambda *_: False, [], id="none"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_pool_costs_only_those_that_break_it(
    kills: Kills, failed: list[int], workers: int, attempts: int
) -> None:
    """A pool of processes as it is: whatever is at work when one dies is lost, and nothing else begins."""
    losses, tried, given_up = Losses(together=True), dict.fromkeys(range(1, 7), 0), set()
    done: set[int] = set()
    lost: list[Entry] = []
    for _ in range(60):
        losses.note(lost)
        given_up |= {s.number for s in SLIDES if tried[s.number] >= attempts and losses.is_to_blame(s)} - done
        waiting = [slide for slide in SLIDES if slide.number not in done | given_up]
        if not waiting:
            break
        slides, alone = losses.next_round(waiting)
        assert slides
        size = 1 if alone else workers
        for start in range(0, len(slides), size):
            at_work = slides[start : start + size]
            for slide in at_work:
                tried[slide.number] += 1
            if any(kills(slide.number, tried[slide.number]) for slide in at_work):
                lost += [entry(slide, tried[slide.number]) for slide in at_work]
                break
            done |= {slide.number for slide in at_work}
    else:
        raise AssertionError("the run goes on for ever")
    if workers == attempts == 1 and kills(2, 1):  # its only try, and no other slide beside it
        failed = sorted({2, *failed})
    assert sorted(given_up) == failed
    assert len(done) == 6 - len(failed)


def test_the_reason_counts() -> None:
    assert lost_reason(1) == "its worker was lost 1 time: killed, out of memory, or crashed"
    assert lost_reason(3).startswith("its worker was lost 3 times:")
