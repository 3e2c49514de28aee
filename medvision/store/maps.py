"""Analysed slides with their probability maps, read back from the folders of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from medvision.core.errors import UsageError
from medvision.core.results import FloatArray, Raster
from medvision.sources.raster_file import read_raster
from medvision.store.files import is_set_aside
from medvision.store.records import SlideResult

RESULT = "result.json"


@dataclass(frozen=True, eq=False)
class SlideMap:
    """One analysed slide; `raster` is None where it holds no tissue, so that nothing was scored."""

    name: str
    result: SlideResult
    raster: Raster | None

    @property
    def probability(self) -> FloatArray | None:
        """The map of the model's positive class, `(rows, columns)`."""
        return None if self.raster is None else self.raster.channel(self.result.model.positive)


def read_map(folder: Path) -> SlideMap:
    """The slide of one folder written by `medvision analyze`.

    Raises:
        UsageError: if it holds no readable result, one without a probability map, or the slide failed or was rejected.
        UnreadableSourceError: if its heatmap cannot be read.
    """
    path = folder / RESULT
    try:
        result = SlideResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); analyse the slide first") from error
    except ValidationError as error:
        raise UsageError(f"{path}: is no slide result that this version reads: {error}") from error
    if result.verdict in ("failed", "QC rejected"):
        raise UsageError(
            f"{path}: the slide was not scored ({result.verdict}: {result.reason}); analyse it again"
        )
    if result.verdict == "done" and (result.heatmap is None or result.map != "probability"):
        raise UsageError(
            f"{path}: {result.model.name} gave the slide no map of probabilities; results of `medvision analyze` have "
            "one, those of `medvision aggregate` do not"
        )
    raster = None if result.heatmap is None else read_raster(folder / result.heatmap.file)
    return SlideMap(folder.name, result, raster)


def list_results(run: Path) -> list[Path]:
    """The folders of a run that hold a result, by name; what the store has set aside is passed over.

    Raises:
        UsageError: if there is none.
    """
    found = sorted(path.parent for path in run.glob(f"*/{RESULT}") if not is_set_aside(path.parent))
    if not found:
        raise UsageError(f"{run}: holds no SLIDE/{RESULT} as written by `medvision analyze`")
    return found
