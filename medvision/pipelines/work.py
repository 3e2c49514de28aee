"""What a batch does to each of its items: the one table of all that differs between slides and images.

The keeper, the workers, the flows, the schedules and the command line ask it, and know neither. Its functions import
what they need when they are called, so that a command's help need not wait for a deep-learning library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.image_config import ImageConfig
from medvision.store.records import ItemKind, SlideOutcome

if TYPE_CHECKING:
    from medvision.sources.guarded import Limits

Config = AnalyzeConfig | ImageConfig
C = TypeVar("C", AnalyzeConfig, ImageConfig)

SLIDE_PATTERNS = (
    "*.svs",
    "*.tif",
    "*.tiff",
    "*.ndpi",
    "*.mrxs",
    "*.scn",
    "*.bif",
    "*.vms",
    "*.svslide",
    "*.dcm",
)
IMAGE_PATTERNS = ("*.png", "*.jpg", "*.jpeg", "*.bmp", "*.webp", "*.tif", "*.tiff", "*.dcm", "*.dicom")


class Attempt(Protocol):
    """Does one item into `out/<name>/`; what goes wrong with it is the outcome's status and reason."""

    def __call__(
        self,
        path: Path,
        out: Path,
        config: Any,
        name: str,
        on_plan: Callable[[str, int], None],
        on_windows: Callable[[int], None],
        stop: threading.Event,
        *,
        alias: str | None,
        limits: Limits | None,
    ) -> SlideOutcome:
        """See `analyze_slide` and `classify_image`."""


@dataclass(frozen=True)
class Work(Generic[C]):
    """One kind of work."""

    item: ItemKind
    """What one item is called."""
    inputs: Literal["slides", "images"]
    """What several are called, and the field of a request that names them."""
    parameters: Literal["analyze", "classify"]
    """The field of a request that holds the parameters."""
    config: type[C]
    paths: tuple[str, ...]
    """Parameters that are paths: made absolute for another process, and never recorded, as they may name a patient."""
    command: str
    flow: str
    done: str
    """What was done to an item that is done."""
    shown: tuple[str, ...]
    """Fields of an outcome that Prefect's page of a run shows: none that could name a patient."""
    patterns: tuple[str, ...]
    """What is taken from a folder unless other patterns are given; upper and lower case are the same."""
    one_file: bool
    """Whether each file is an item, called by its path as labels of images call it; a slide may be several files."""
    unit: Literal["tiles", "images"]
    """What is counted in a second."""
    bytes_per_result: int
    """Room that a usual result takes, from above."""
    attempt: Attempt
    check: Callable[[C, bool], None]
    """Find what is wrong with the parameters; on the device only if that is asked. Raises `MedvisionError`."""
    look: Callable[[Path, C], None]
    """Open the header of a file. Raises `MedvisionError` if it cannot be worked on."""
    fields: Callable[[C], dict[str, Any]]
    """The parameters that change a result, as the ledger records them."""
    supply: Callable[[C, float], C]
    """The parameters with the spacing (µm) that a manifest supplies for one item."""

    @property
    def items(self) -> str:
        """Several of them, in words."""
        return f"{self.item}s"

    def plural(self, count: int) -> str:
        """`count` of them, in words."""
        return f"{count:,} {self.item if count == 1 else self.items}"


def _analyze(*args: Any, **kwargs: Any) -> SlideOutcome:
    from medvision.pipelines.analyze import analyze_slide

    return analyze_slide(*args, **kwargs)


def _classify(*args: Any, **kwargs: Any) -> SlideOutcome:
    from medvision.pipelines.classify_image import classify_image

    return classify_image(*args, **kwargs)


def _check_analyze(config: AnalyzeConfig, on_device: bool) -> None:
    from medvision.pipelines.configured import check_config, check_names

    if on_device:
        check_config(config)
    else:
        check_names(config)


def _check_classify(config: ImageConfig, on_device: bool) -> None:
    from medvision.pipelines.classify_image import check_image_config

    check_image_config(config if on_device else config.model_copy(update={"device": "cpu"}))


def _look_at_slide(path: Path, config: AnalyzeConfig) -> None:
    from medvision.sources import open_source
    from medvision.sources.spacing import require_spacing

    source = open_source(path, config.slide_spacing)
    try:
        require_spacing(source)
    finally:
        source.close()


def _look_at_image(path: Path, config: ImageConfig) -> None:
    from medvision.sources.still import look_at_still

    look_at_still(path, frame=config.frame)


SLIDES = Work(
    item="slide",
    inputs="slides",
    parameters="analyze",
    config=AnalyzeConfig,
    paths=("weights", "slide_model"),
    command="batch",
    flow="batch",
    done="analysed",
    shown=("status", "label", "probability", "regions", "windows", "unread", "seconds"),
    patterns=SLIDE_PATTERNS,
    one_file=False,
    unit="tiles",
    bytes_per_result=5_000_000,
    attempt=_analyze,
    check=_check_analyze,
    look=_look_at_slide,
    fields=lambda config: dict(config.findings_fields()),
    supply=lambda config, um: config.model_copy(update={"slide_spacing": um}),
)

IMAGES = Work(
    item="image",
    inputs="images",
    parameters="classify",
    config=ImageConfig,
    paths=("model",),
    command="batch-images",
    flow="classify",
    done="classified",
    shown=("status", "label", "probability", "seconds"),
    patterns=IMAGE_PATTERNS,
    one_file=True,
    unit="images",
    bytes_per_result=1_000_000,
    attempt=_classify,
    check=_check_classify,
    look=_look_at_image,
    # The file's name, not where it lies: two models must not pass for one in the list of runs.
    fields=lambda config: {**config.findings_fields(), "model": config.model.stem},
    supply=lambda config, _um: config,  # the network sees images at no scale
)

WORKS: tuple[Work[Any], ...] = (SLIDES, IMAGES)


def work_of(config: Config) -> Work[Any]:
    """The kind of work that these are the parameters of."""
    return next(work for work in WORKS if isinstance(config, work.config))
