"""The end of a run over several slides: one line per slide, and a page that leads to every report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from medvision.core.errors import StoreError
from medvision.report import Evaluation, render_index
from medvision.store.files import atomic_write
from medvision.store.records import SlideOutcome

OUTCOMES = "outcomes.json"


def finish_run(
    out: Path, outcomes: Sequence[SlideOutcome], evaluation: Evaluation | None = None
) -> Path:
    """Write `outcomes.json` and the index page of a run; returns the page.

    Outcomes of earlier runs into the same folder stay listed unless the slide was analysed again.
    """
    out.mkdir(parents=True, exist_ok=True)
    merged = {outcome.name: outcome for outcome in read_outcomes(out)}
    merged.update({outcome.name: outcome for outcome in outcomes})
    rows = [merged[name] for name in sorted(merged)]
    text = json.dumps([row.model_dump(mode="json") for row in rows], indent=2, ensure_ascii=False)
    atomic_write(out / OUTCOMES, (text + "\n").encode())
    return render_index(out, rows, evaluation)


def read_outcomes(out: Path) -> list[SlideOutcome]:
    """The outcomes of a run's folder; none where there was no run.

    Raises:
        StoreError: if the file is there and cannot be read.
    """
    path = out / OUTCOMES
    try:
        return [SlideOutcome.model_validate(row) for row in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
