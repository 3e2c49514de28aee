"""Train a patch classifier on the slides of a cohort: sample, learn, mine its errors, learn from them, write it down.

Out of it come `model.safetensors` (with its contract), `model-card.md`, `report.json`, the course of every round as CSV
and as TensorBoard events. Patients that are validated on are learnt from nowhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.metrics.calibration import fit_temperature
from medvision.metrics.ranking import roc_auc
from medvision.models.catalogue import as_patch_model
from medvision.models.classifiers.foreign import find
from medvision.models.classifiers.slim_resnet import SlimResNet
from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD, Figure, WeightsContract
from medvision.models.weights import digest_state, write_weights
from medvision.ops.stain import Normaliser, fit_normaliser
from medvision.sources.base import Pixels
from medvision.store.cohort import Cohort, CohortSlide, read_cohort
from medvision.store.files import atomic_write, make_output
from medvision.training.augment import augment
from medvision.training.cohort_card import render_cohort_card
from medvision.training.cohort_config import TrainCohortPatchConfig
from medvision.training.figures import interval_over
from medvision.training.loop import Batch, Check, Fit, LoopSettings, fit, write_checks
from medvision.training.mining import mine_hard_negatives, read_hard, write_hard
from medvision.training.patch import TrainReport
from medvision.training.patch_score import MEAN, STD
from medvision.training.patches import as_float
from medvision.training.slide_sampling import (
    Drawn,
    SlidePlaces,
    SlideSampler,
    find_places,
    patient_of,
    prove_disjoint,
    require_other_content,
    split_validation,
    with_hard,
)
from medvision.training.slide_windows import Places, SlideWindows

_SLIM = "slim-resnet"
_VALIDATION_SEED = 7_919
_NOT_IDENTITY = {
    "cohort",
    "device",
    "licence",
    "data_statement",
    "limits",
    "version",
    "name",
    "hard_negatives",
}


def train_cohort_patch(
    config: TrainCohortPatchConfig,
    out: Path,
    on_check: Callable[[str, Check], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainReport:
    """Train as `config` says and write everything below `out`; an interrupted run continues there.

    Args:
        on_check: told the name of the round ("round 0") and its state at each check.
        on_note: told what a person should know: the split and its proof, what was mined.

    Raises:
        UsageError: if `out` cannot be written to, the cohort or a slide of it is wrong, or has nothing to learn from.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    make_output(out)
    note = on_note or (lambda _: None)
    learn, validate = _split(config, read_cohort(config.cohort))
    proof = prove_disjoint(learn, validate)
    note(proof)
    (out / "progress").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        windows = stack.enter_context(SlideWindows(learn, config.spacing_um))
        kept_out = stack.enter_context(SlideWindows(validate, config.spacing_um))
        require_other_content(windows, kept_out)
        places = [find_places(windows, k, config.sampling, config.seed) for k in range(len(windows))]
        test = _validation(config, kept_out)
        data = digest_json([windows.digest, kept_out.digest])
        fitted = _learn(config, windows, places, test, out, data, 0, None, on_check)
        steps = fitted.checks[-1].step
        for number in range(1, config.hard_negatives.rounds + 1):
            hard = _mined(config, windows, fitted.net, out, number)
            note(
                f"round {number}: {sum(map(len, hard))} false alarms on {sum(map(bool, map(len, hard)))} slides"
            )
            places = with_hard(places, hard)
            fitted = _learn(config, windows, places, test, out, data, number, fitted.net, on_check)
            steps += fitted.checks[-1].step
    margins = _margins(config, fitted.net, test.images)
    temperature = fit_temperature(margins, test.labels == 1)
    contract = _contract(config, temperature, _figures(test, margins, validate))
    weights, card = out / "model.safetensors", out / "model-card.md"
    write_weights(weights, fitted.net.state_dict(), contract.model_dump(mode="json"))
    atomic_write(card, render_cohort_card(config, contract, learn, proof, fitted, weights).encode())
    digest = digest_state(fitted.net.state_dict())
    seconds = time.perf_counter() - began
    report = TrainReport(weights, card, digest, steps, temperature, contract.figures, seconds)
    _write_report(report, config, proof, out / "report.json")
    return report


def build_classifier(architecture: str, classes: int, seed: int) -> nn.Module:
    """A network of the catalogue's own design, of torchvision or of timm, with weights drawn from `seed`.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SlimResNet(classes) if architecture == _SLIM else find(architecture)[0].build(classes)
    return net.to(memory_format=torch.channels_last)


def _split(
    config: TrainCohortPatchConfig, cohort: Cohort
) -> tuple[tuple[CohortSlide, ...], tuple[CohortSlide, ...]]:
    cohort.check_disjoint()
    slides = cohort.of(config.split)
    if config.validation_split is None:
        return split_validation(slides, config.validation_share, config.seed)
    return slides, cohort.of(config.validation_split)


def _validation(config: TrainCohortPatchConfig, windows: SlideWindows) -> Drawn:
    """The fixed windows that are validated on, drawn as those of a batch are."""
    places = [find_places(windows, k, config.sampling, config.seed) for k in range(len(windows))]
    with _sampler(config, windows, places, config.seed + _VALIDATION_SEED) as draw:
        count = -(-config.validation_windows // config.batch_size)
        parts = [draw(step) for step in range(count)]
    return Drawn(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("images", "labels", "slides"))
    )


@contextmanager
def _sampler(
    config: TrainCohortPatchConfig, windows: SlideWindows, places: list[SlidePlaces], seed: int
) -> Iterator[SlideSampler]:
    draw = SlideSampler(windows, places, config.sampling, config.window_px, config.batch_size, seed)
    try:
        yield draw
    finally:
        draw.close()


def _learn(
    config: TrainCohortPatchConfig,
    windows: SlideWindows,
    places: list[SlidePlaces],
    test: Drawn,
    out: Path,
    data: str,
    number: int,
    start: nn.Module | None,
    on_check: Callable[[str, Check], None] | None,
) -> Fit:
    """One round: from new weights, or from those of the round before with its errors among the places."""
    hard = config.hard_negatives
    settings = LoopSettings(
        steps=config.steps if number == 0 else hard.steps,
        learning_rate=config.learning_rate if number == 0 else hard.learning_rate,
        weight_decay=config.weight_decay,
        average=config.average,
        check_every=config.check_every,
        patience=config.patience,
        seed=config.seed + number,
    )
    net = build_classifier(config.architecture, len(config.classes), config.seed)
    identity: dict[str, object] = {"config": _identity(config), "data": data, "round": number}
    if start is not None:
        net.load_state_dict(start.state_dict())
        places_digest = digest_json([p.hard.tolist() for p in places])
        identity |= {"start": digest_state(start.state_dict()), "hard": places_digest}
    slug = f"round-{number}"
    with _sampler(config, windows, places, config.seed + number) as draw:
        fitted = fit(
            net,
            _batches(config, windows, places, draw),
            partial(_loss, label_smoothing=config.label_smoothing),
            settings,
            partial(_negative_loss, config, test=test),
            None if on_check is None else partial(on_check, f"round {number}"),
            out / "progress" / f"{slug}.pt",
            identity,
            precision=config.precision,
            device=config.device,
            tensorboard=out / "tensorboard" / slug,
        )
    write_checks(fitted.checks, out / "progress" / f"{slug}.csv")
    return fitted


def _batches(
    config: TrainCohortPatchConfig, windows: SlideWindows, places: list[SlidePlaces], draw: SlideSampler
) -> Callable[[int], Batch]:
    """Batches as a function of the step: windows drawn, given other slides' stain, augmented, normalised."""
    mean, std = _normalisation(config)
    stains = _Stains(config, windows, places) if config.stain_transfer.share else None

    def batch(step: int) -> Batch:
        drawn = draw(step)
        images = drawn.images if stains is None else stains.transfer(drawn, step)
        generator = torch.Generator().manual_seed(draw.seed * 1_000_003 + step)
        labels = torch.from_numpy(drawn.labels)
        inputs, labels = augment(as_float(images), labels, config.augmentation, generator)
        return _normalised(inputs, mean, std), labels

    return batch


class _Stains:
    """The stains of the training slides, each fitted when it is first wanted, on some windows of the slide's tissue."""

    def __init__(
        self, config: TrainCohortPatchConfig, windows: SlideWindows, places: list[SlidePlaces]
    ) -> None:
        self.config, self.windows, self.places = config, windows, places
        self.fitted: dict[int, Normaliser | None] = {}

    def transfer(self, drawn: Drawn, step: int) -> Pixels:
        """Some of the windows with the stain of another slide. A window without stain stays as it is."""
        rng = np.random.default_rng([self.config.seed, step, 0x57A1])
        chosen = rng.uniform(size=len(drawn.images)) < self.config.stain_transfer.share
        targets = rng.integers(len(self.places), size=len(drawn.images))
        images = drawn.images.copy()
        for index in np.flatnonzero(chosen):
            normalise = self._of(int(targets[index]))
            if normalise is not None:
                try:
                    images[index] = normalise(images[index])
                except UsageError:  # next to no stain in this window: glass and fat stay glass and fat
                    continue
        return images

    def _of(self, slide: int) -> Normaliser | None:
        if slide not in self.fitted:
            self.fitted[slide] = self._fit(slide)
        return self.fitted[slide]

    def _fit(self, slide: int) -> Normaliser | None:
        """None for a slide without tissue or stain, or with damaged windows: it lends its stain to none."""
        known = np.concatenate([self.places[slide].normal, self.places[slide].tumour])
        if len(known) == 0:
            return None
        picks = np.random.default_rng([self.config.seed, slide]).integers(len(known), size=9)
        try:
            shown = [self.windows.read(slide, known[k], self.config.window_px) for k in picks]
            return fit_normaliser(np.concatenate(shown, axis=1), self.config.stain_transfer.method)
        except (UsageError, WindowUnreadableError):
            return None


def _mined(
    config: TrainCohortPatchConfig, windows: SlideWindows, net: nn.Module, out: Path, number: int
) -> list[Places]:
    """The false alarms of the last round's network on the slides that it learnt from."""
    said = digest_json([digest_state(net.state_dict()), config.hard_negatives.model_dump(mode="json")])
    path = out / "progress" / f"hard-{number}-{said[:12]}.csv"
    if not path.exists():
        model = as_patch_model(config.name, net, _contract(config, 1.0, {}))
        write_hard(windows, mine_hard_negatives(windows, model, config.hard_negatives, config.device), path)
    return read_hard(windows, path)


def _contract(
    config: TrainCohortPatchConfig, temperature: float, figures: dict[str, Figure]
) -> WeightsContract:
    mean, std = _normalisation(config)
    return WeightsContract(
        architecture=config.architecture,
        classes=config.classes,
        positive=config.classes[-1],
        window_px=config.window_px,
        spacing_um=config.spacing_um,
        mean=mean,
        std=std,
        temperature=round(temperature, 4),
        isotonic=None,
        calibration="temperature scaling on balanced windows of patients kept out"
        if figures
        else "uncalibrated",
        precisions=("float32", "bfloat16"),
        version=config.version,
        figures=figures,
    )


def _figures(
    test: Drawn, margins: npt.NDArray[np.float64], slides: tuple[CohortSlide, ...]
) -> dict[str, Figure]:
    """Of windows of `slides`; those of one patient are not independent, so that whole patients are resampled."""
    positive = test.labels == 1
    patients = [patient_of(slides[k]) for k in test.slides]
    figure = Figure(
        value=roc_auc(positive, margins),
        interval=interval_over(patients, roc_auc, positive, margins),
        protocol=f"{len(test.labels)} balanced windows of {len(slides)} slides of patients kept out, on which training "
        "was stopped; patients resampled",
    )
    return {"auc": figure}


def _loss(
    found: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    # Inception and GoogLeNet give auxiliary outputs beside the first while they train.
    logits = found if isinstance(found, torch.Tensor) else found[0]
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def _logits(config: TrainCohortPatchConfig, net: nn.Module, images: Pixels) -> torch.Tensor:
    mean, std = _normalisation(config)
    net.eval()
    with torch.inference_mode():
        parts = [net(_normalised(part, mean, std)) for part in torch.split(as_float(images), 64)]
    return torch.cat(parts)


def _negative_loss(config: TrainCohortPatchConfig, net: nn.Module, test: Drawn) -> float:
    logits = _logits(config, net, test.images)
    return -float(functional.cross_entropy(logits, torch.from_numpy(test.labels)))


def _margins(config: TrainCohortPatchConfig, net: nn.Module, images: Pixels) -> npt.NDArray[np.float64]:
    logits = _logits(config, net, images).double().numpy()
    return np.asarray(logits[:, 1] - logits[:, 0])


def _normalisation(config: TrainCohortPatchConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (MEAN, STD) if config.architecture == _SLIM else (IMAGENET_MEAN, IMAGENET_STD)


def _normalised(windows: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    scaled = (windows - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)


def _identity(config: TrainCohortPatchConfig) -> dict[str, object]:
    """What of the configuration changes the first round; later rounds say apart what they start from."""
    fields: dict[str, object] = config.model_dump(mode="json", exclude=_NOT_IDENTITY)
    return fields


def _write_report(report: TrainReport, config: TrainCohortPatchConfig, proof: str, path: Path) -> None:
    said = asdict(report) | {"weights": report.weights.name, "card": report.card.name, "split": proof}
    said["figures"] = {name: figure.model_dump(mode="json") for name, figure in report.figures.items()}
    said["config_digest"] = digest_json(
        config.model_dump(mode="json", exclude={"cohort", "device", "licence", "data_statement", "limits"})
    )
    atomic_write(path, (json.dumps(said, indent=2) + "\n").encode())
