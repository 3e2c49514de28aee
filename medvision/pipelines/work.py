"""What a batch does to each of its items: the one table of all that differs between slides, images, scans and cases.

The keeper, the workers, the flows, the schedules and the command line ask it, and know neither. Its functions import
what they need when they are called, so that a command's help need not wait for a deep-learning library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from medvision.core.errors import UsageError
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.image_config import ImageConfig
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.pipelines.segment_config import SegmentConfig
from medvision.store.records import ItemKind, SlideOutcome

if TYPE_CHECKING:
    from medvision.sources.guarded import Limits

Config = AnalyzeConfig | ImageConfig | NoduleConfig | SegmentConfig
C = TypeVar("C", AnalyzeConfig, ImageConfig, NoduleConfig, SegmentConfig)

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
SCAN_PATTERNS = ("*.mhd", "*.mha", "*.nii", "*.nii.gz", "*.nrrd", "*.nhdr", "*.dcm", "*.dicom")
CASE_PATTERNS = tuple(dict.fromkeys((*SLIDE_PATTERNS, *IMAGE_PATTERNS, *SCAN_PATTERNS)))


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
        called: str | None,
        alias: str | None,
        limits: Limits | None,
    ) -> SlideOutcome:
        """See `analyze_slide`, `classify_image`, `find_nodules` and `segment_case`."""


@dataclass(frozen=True)
class Work(Generic[C]):
    """One kind of work."""

    item: ItemKind
    """What one item is called."""
    inputs: Literal["slides", "images", "scans", "cases"]
    """What several are called, and the field of a request that names them."""
    parameters: Literal["analyze", "classify", "nodules", "segment"]
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
    gathered: Callable[[Path, list[Path]], list[Path]]
    """Of the files of a folder, those that stand for an item, or the folders that do."""
    one_file: bool
    """Whether each file is an item, called by its path as labels of images call it; a slide may be several files."""
    found: str
    """What an outcome's regions are called, one of them."""
    unit: Literal["tiles", "images", "windows"]
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


def _search(*args: Any, **kwargs: Any) -> SlideOutcome:
    from medvision.pipelines.nodules import find_nodules

    return find_nodules(*args, **kwargs)


def _segment(*args: Any, **kwargs: Any) -> SlideOutcome:
    from medvision.pipelines.segment import segment_case

    return segment_case(*args, **kwargs)


def _check_segment(config: SegmentConfig, on_device: bool) -> None:
    from medvision.pipelines.segment import check_segment_config

    check_segment_config(config if on_device else config.model_copy(update={"device": "cpu"}))


def _look_at_case(path: Path, config: SegmentConfig) -> None:
    from medvision.pipelines.segment_case import look_at_case

    look_at_case(path, config)


def _check_analyze(config: AnalyzeConfig, on_device: bool) -> None:
    from medvision.pipelines.configured import check_config, check_names

    if on_device:
        check_config(config)
    else:
        check_names(config)


def _check_classify(config: ImageConfig, on_device: bool) -> None:
    from medvision.pipelines.classify_image import check_image_config

    check_image_config(config if on_device else config.model_copy(update={"device": "cpu"}))


def _check_search(config: NoduleConfig, on_device: bool) -> None:
    from medvision.pipelines.nodules import check_nodule_config

    check_nodule_config(config if on_device else config.model_copy(update={"device": "cpu"}))


def _slides_of(_folder: Path, found: list[Path]) -> list[Path]:
    from medvision.sources.parts import one_of_each_slide

    return one_of_each_slide(found)


def _scans_of(folder: Path, found: list[Path]) -> list[Path]:
    from medvision.sources.parts import one_of_each_scan

    return one_of_each_scan(folder, found)


def _cases_of(folder: Path, found: list[Path]) -> list[Path]:
    from medvision.sources.parts import one_of_each_case

    return one_of_each_case(folder, found)


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


def _look_at_scan(path: Path, config: NoduleConfig) -> None:
    from medvision.pipelines.nodules import open_scan

    open_scan(path, config).close()


def _refuse_spacing(_config: NoduleConfig, um: float) -> NoduleConfig:
    raise UsageError(
        f"a spacing of {um:g} in the manifest: it is that of a slide's pixels; scans have three, for all of a batch: "
        "--volume-spacing"
    )


SLIDES = Work(
    item="slide",
    inputs="slides",
    parameters="analyze",
    config=AnalyzeConfig,
    paths=("weights", "slide_model", "tissue_model"),
    command="batch",
    flow="batch",
    done="analysed",
    shown=("status", "label", "probability", "regions", "windows", "unread", "seconds"),
    patterns=SLIDE_PATTERNS,
    gathered=_slides_of,
    one_file=False,
    found="region",
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
    gathered=lambda _folder, found: found,
    one_file=True,
    found="region",
    unit="images",
    bytes_per_result=1_000_000,
    attempt=_classify,
    check=_check_classify,
    look=_look_at_image,
    # The file's name, not where it lies: two models must not pass for one in the list of runs.
    fields=lambda config: {**config.findings_fields(), "model": config.model.stem},
    supply=lambda config, _um: config,  # the network sees images at no scale
)

SCANS = Work(
    item="scan",
    inputs="scans",
    parameters="nodules",
    config=NoduleConfig,
    paths=("detector", "reduction"),
    command="batch-scans",
    flow="nodules",
    done="searched",
    shown=("status", "label", "probability", "regions", "windows", "unread", "seconds"),
    patterns=SCAN_PATTERNS,
    gathered=_scans_of,
    one_file=False,
    found="finding",
    unit="windows",
    bytes_per_result=3_000_000,
    attempt=_search,
    check=_check_search,
    look=_look_at_scan,
    fields=lambda config: {
        **config.findings_fields(),
        "detector": config.detector.stem,
        "reduction": None if config.reduction is None else config.reduction.stem,
    },
    supply=_refuse_spacing,
)

CASES = Work(
    item="case",
    inputs="cases",
    parameters="segment",
    config=SegmentConfig,
    paths=("model",),
    command="batch-segment",
    flow="segment",
    done="segmented",
    shown=("status", "label", "probability", "regions", "windows", "unread", "seconds"),
    patterns=CASE_PATTERNS,
    gathered=_cases_of,
    one_file=False,
    found="part",
    unit="windows",
    bytes_per_result=5_000_000,
    attempt=_segment,
    check=_check_segment,
    look=_look_at_case,
    fields=lambda config: {
        **config.findings_fields(),
        "model": None if config.model is None else config.model.stem,
    },
    supply=lambda config, um: config.model_copy(update={"spacing": f"{um:g}"}),
)

WORKS: tuple[Work[Any], ...] = (SLIDES, IMAGES, SCANS, CASES)


def work_of(config: Config) -> Work[Any]:
    """The kind of work that these are the parameters of."""
    return next(work for work in WORKS if isinstance(config, work.config))
