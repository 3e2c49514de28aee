"""One image to its class: probabilities, whether it is like the training images, a saliency map, and a report."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medvision.core.digest import digest_json
from medvision.core.errors import MedvisionError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models.image_model import ImageModel, logits_of
from medvision.ops.appearance import Appearance, appearance_of
from medvision.ops.resize import Pixels
from medvision.pipelines.configured_image import ReadyImageModel, ready_image_model
from medvision.pipelines.device import compute
from medvision.pipelines.image_config import ImageConfig, ImageWindow, parse_window
from medvision.pipelines.saliency import (
    Saliency,
    check_saliency,
    explain,
    windows_of,
    write_image_pictures,
)
from medvision.pipelines.slide_result import failed_outcome
from medvision.report.build import RESULT, RUN
from medvision.report.render import HTML, write_report
from medvision.sources.guarded import Limits
from medvision.sources.guarded_still import read_still_guarded
from medvision.sources.still import StillImage, read_still
from medvision.store.files import make_output, safe_name
from medvision.store.image_records import (
    UNLIKE,
    FigureInfo,
    ImageInfo,
    ImageModelInfo,
    ImageResult,
)
from medvision.store.provenance import new_run_id, software_versions, utc_now
from medvision.store.records import QcMeasure, RunRecord, SlideOutcome
from medvision.store.store import ResultSpec, ResultStore

_HARDLY = 0.01
"""A drop of the probability that a reader should not make much of."""


def classify_image(
    image: Path,
    out: Path,
    config: ImageConfig,
    name: str | None = None,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    *,
    called: str | None = None,
    alias: str | None = None,
    limits: Limits | None = None,
) -> SlideOutcome:
    """Classify one image into `out/<name>/`: the record (`ImageResult` in `result.json`), the pictures, the report.

    Parameters and outcome are those of `analyze_slide`. The outcome's `label` is the predicted class, its `probability`
    that of the contract's positive class where there is one, else of the predicted class. An image that is unlike those
    of the training is "done", and `reason` says in what. With `limits`, the file is read by a process of its own that
    may not exceed them.

    A result of the same file content, weights, configuration and code that verifies is kept ("unchanged"). What goes
    wrong with the image is the outcome's status and reason; what is wrong with the configuration raises.
    """
    started, began = time.perf_counter(), utc_now()
    ready = check_image_config(config)
    make_output(out)
    name = safe_name(image) if name is None else name
    engine = image_engine(config, on_windows, stop)
    shown = alias or called or image.name
    work: _Classification | None = None
    try:
        window = shown_window(config, ready.model)
        if limits is None:
            still = read_still(image, window, config.frame)
        else:
            still = read_still_guarded(image, window, config.frame, limits)
        work = _Classification(shown, name, out, config, ready, engine, still, on_plan, started, began)
        return work.outcome(str(image) if alias is None else alias)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with an image is its outcome
        failed = failed_outcome(image, name, error, time.perf_counter() - started, alias, shown)
        return failed if work is None else failed.model_copy(update={"digests": work.spec.digests})


def check_image_config(config: ImageConfig) -> ReadyImageModel:
    """The model of `config`, after making sure that everything in it fits the model; before any image is read.

    Raises:
        MedvisionError: with what to pass instead.
    """
    ready = ready_image_model(config)
    if config.saliency != "gradcam" or ready.last_map is None:
        ready.last_map = check_saliency(ready.model, config) or ready.last_map
    else:
        check_saliency(ready.model, config.model_copy(update={"saliency": "none"}))
    return ready


def image_engine(
    config: ImageConfig,
    on_windows: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> PatchEngine:
    """The engine as `config` wants it."""
    settings = EngineSettings(device=config.device, batch_size=config.batch_size, readers=2)
    return PatchEngine(settings, on_windows, stop)


def shown_window(config: ImageConfig, model: ImageModel) -> ImageWindow:
    """How grey of more than 8 bits is shown: as `config` says, else as in the training."""
    return parse_window(config.image_window or model.contract.window)


@dataclass(frozen=True)
class Judgement:
    """What one image's logits mean. `checks` pair each bound of the training images with words on its breach."""

    probabilities: dict[str, float]
    predicted: str
    energy: float
    checks: tuple[QcMeasure, ...]
    complaints: tuple[str, ...]

    @property
    def in_scope(self) -> bool | None:
        """Whether the image is like those of the training; None where the model does not know those."""
        return not self.complaints if self.checks else None

    @property
    def reason(self) -> str:
        """In what it is unlike them, in one line."""
        return UNLIKE + "; ".join(self.complaints) if self.complaints else ""


def judge_image(
    model: ImageModel, logits: np.ndarray[tuple[int], np.dtype[np.float64]], seen: Appearance
) -> Judgement:
    """Probabilities of one image's logits `(classes,)`, and whether it is one of the model's kind.

    Raises:
        MedvisionError: if the network's answer is no number.
    """
    if not np.isfinite(logits).all():
        raise MedvisionError(f"model {model.name!r} gives no number for this image: {logits.tolist()}")
    contract = model.contract
    probabilities = model.probabilities(logits[None])[0]
    energy = float(model.energy(logits[None])[0])
    judged = () if contract.scope is None else contract.scope.judge(seen, energy)
    return Judgement(
        probabilities={
            name: round(float(value), 6) for name, value in zip(contract.classes, probabilities, strict=True)
        },
        predicted=contract.classes[int(probabilities.argmax())],
        energy=round(energy, 4),
        checks=tuple(QcMeasure(**asdict(measure)) for measure, _ in judged),
        complaints=tuple(words for measure, words in judged if not measure.ok),
    )


def describe_image_model(ready: ReadyImageModel) -> ImageModelInfo:
    """The model, as its contract says it."""
    contract = ready.model.contract
    return ImageModelInfo(
        name=ready.model.name,
        version=contract.version,
        digest=ready.digest,
        architecture=contract.architecture,
        classes=contract.classes,
        positive=contract.positive,
        input_px=contract.input_px,
        resize=contract.resize,
        temperature=contract.temperature,
        calibration=contract.calibration,
        figures={name: FigureInfo(**one.model_dump()) for name, one in contract.figures.items()},
    )


@dataclass(eq=False)
class _Classification:
    """One image being classified."""

    shown: str
    name: str
    out: Path
    config: ImageConfig
    ready: ReadyImageModel
    engine: PatchEngine
    still: StillImage
    on_plan: Callable[[str, int], None] | None
    started: float
    began: str
    computed: bool = False

    @cached_property
    def spec(self) -> ResultSpec:
        """Everything that the result depends on."""
        runner = self.ready.runner
        # The one image is a batch by itself; only its copies share batches.
        batch = self.config.batch_size if self.config.saliency == "occlusion" else 1
        return ResultSpec(
            kind="classify",
            name=self.shown,
            source=self.still.digest,
            model=self.ready.digest,
            config={
                **self.config.findings_fields(),
                "precision": runner.precision,
                "backend": runner.backend,
                "batch_size": batch,
            },
        )

    def outcome(self, called: str) -> SlideOutcome:
        """Make or find the result, with its report, and say what became of the image."""
        entry = ResultStore(self.out).get_or_make(self.spec, self._make, name=self.name, of_run=(RUN, HTML))
        result = ImageResult.model_validate_json((entry.folder / RESULT).read_bytes())
        return SlideOutcome(
            slide=called,
            name=self.name,
            called=self.shown,
            status="done" if entry.made else "unchanged",
            reason=result.reason,
            probability=result.probability,
            probability_of=result.probability_of,
            label=result.label,
            windows=windows_of(self.ready.model, self.config),
            seconds=round(time.perf_counter() - self.started, 3),
            digests=self.spec.digests,
            batch_size=self.config.batch_size if self.computed else None,
            device=str(self.engine.device) if self.computed else "",
            set_aside=entry.set_aside,
        )

    def _make(self, folder: Path) -> None:
        """Compute everything and write it into `folder`, which the store then puts in place at once."""
        pixels = self.still.pixels

        def run() -> tuple[Judgement, Saliency | None]:
            if self.on_plan is not None:
                self.on_plan(self.name, windows_of(self.ready.model, self.config))
            return self._judged(pixels)

        found, saliency = compute(str(self.engine.device), self.engine.stop, run)
        self.computed = True
        images = write_image_pictures(pixels, saliency, self.ready.model, folder)
        result = self._result(found, saliency, images)
        (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / RUN).write_text(self._run_record().model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_report(folder)

    def _judged(self, pixels: Pixels) -> tuple[Judgement, Saliency | None]:
        logits = logits_of(self.ready.model, [pixels], self.engine, self.ready.runner)[0]
        found = judge_image(self.ready.model, logits, appearance_of(pixels))
        return found, explain(self.ready, pixels, found.predicted, self.config, self.engine)

    def _result(self, found: Judgement, saliency: Saliency | None, images: dict[str, str]) -> ImageResult:
        fields = self.config.findings_fields()
        return ImageResult(
            reason=found.reason,
            image=self._info(),
            model=describe_image_model(self.ready),
            config=fields,
            config_digest=digest_json(fields),
            software=software_versions(),
            probabilities=found.probabilities,
            predicted=found.predicted,
            in_scope=found.in_scope,
            energy=found.energy,
            qc=found.checks,
            saliency=None if saliency is None else saliency.info,
            limits=_limits(self.ready.model, saliency),
            images=images,
        )

    def _info(self) -> ImageInfo:
        still = self.still
        rows, columns = still.pixels.shape[:2]
        return ImageInfo(
            name=self.shown,
            digest=still.digest,
            reader=still.kind,
            shape=(rows, columns),
            bits=still.bits,
            grey=appearance_of(still.pixels).grey,
            shown=str(still.windowing),
            frame=self.config.frame,
            metadata=dict(still.metadata),
        )

    def _run_record(self) -> RunRecord:
        runner = self.ready.runner
        return RunRecord(
            run_id=new_run_id(),
            started_utc=self.began,
            finished_utc=utc_now(),
            seconds=round(time.perf_counter() - self.started, 3),
            device=str(self.engine.device),
            batch_size=self.config.batch_size,
            precision=runner.precision,
            backend=runner.backend,
            tiles_per_second=None,
            command=image_command(self.config),
        )


def image_command(config: ImageConfig) -> str:
    """The command with every parameter that is not a default; no paths, which may name a patient."""
    changed = config.model_dump(exclude_defaults=True, exclude={"model"})
    options = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
    return shlex.join(["medvision", "classify", *options])


def _limits(model: ImageModel, saliency: Saliency | None) -> tuple[str, ...]:
    """Sentences on what the result does not cover."""
    contract = model.contract
    notes = [
        f"Only {', '.join(contract.classes)} can be answered; an image that shows none of them gets one all the same."
    ]
    if contract.scope is None:
        notes.append(
            "The model does not say what its training images were like, so nobody checked that this is one."
        )
    if contract.resize == "crop":
        notes.append("The network saw the middle square of the image only.")
    if saliency is not None:
        notes.append(
            "The map shows what the network's answer rests on, coarsely; it outlines no finding and proves no cause."
        )
        if saliency.info.method == "occlusion" and 0 < saliency.info.scale < _HARDLY:
            notes.append(
                f"Hiding any one place lowers the probability by {saliency.info.scale:.2g} at most: the map shows "
                "differences that are hardly there."
            )
        if saliency.info.scale == 0:
            notes.append(
                f"Nothing in the image speaks for {saliency.info.class_name} by this map: it is empty."
            )
    return tuple(notes)
