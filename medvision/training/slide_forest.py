"""Train a random forest that classifies slides by their heatmaps (Wang et al. 2016).

Out of it come `model.safetensors` (trees as arrays, with the contract), `model-card.md`, `report.json`, and as CSV the
features of every slide and the out-of-fold probabilities. The same heatmaps and configuration give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.metrics.ranking import roc_auc
from medvision.models.contract import Figure
from medvision.models.slide_forest import ForestContract, Trees, trees_of, write_slide_forest
from medvision.ops.components import slide_score
from medvision.ops.heatmap_features import FEATURES, heatmap_features
from medvision.store.cohort import CohortSlide, read_cohort
from medvision.store.files import atomic_write, make_output, safe_name
from medvision.store.maps import SlideMap, read_map
from medvision.training.card_layout import figure_table, lay_out
from medvision.training.figures import figure_lines, interval_over
from medvision.training.slide_forest_config import TrainSlideForestConfig

Floats = npt.NDArray[np.float64]
FEWEST = 4
"""Slides of each class below which nothing can be learnt or measured."""


@dataclass(frozen=True, eq=False)
class SlideTable:
    """Features `(n, 28)` of the slides with tissue, what is known of them, and what all the heatmaps share."""

    names: tuple[str, ...]
    patients: tuple[str, ...]
    positive: npt.NDArray[np.bool_]
    features: Floats
    scores: Floats
    """(n,), what the slides' scores are without a forest."""
    without_tissue: tuple[str, ...]
    model: str
    model_digest: str
    stride_um: float


@dataclass(frozen=True, slots=True)
class ForestReport:
    """What training yielded."""

    weights: Path
    card: Path
    slides: int
    figures: dict[str, Figure]

    def summary(self) -> str:
        """The figures, one a line, for a person."""
        return "\n".join(figure_lines(self.figures))


def train_slide_forest(config: TrainSlideForestConfig, out: Path) -> ForestReport:
    """Train as `config` says and write everything below `out`.

    Raises:
        UsageError: if `out` cannot be written to, slides of the split have no label or no result, results are of
            different models or strides, or there are fewer than four slides of a class.
    """
    make_output(out)
    table = read_slides(config)
    found = _cross_validate(config, table)
    figures = _figures(table, found)
    forest = _fit(config, table.features, table.positive)
    contract = ForestContract(
        name=config.name,
        version=config.version,
        features=FEATURES,
        positive=config.positive,
        model=table.model,
        model_digest=table.model_digest,
        stride_um=table.stride_um,
        trees=config.trees,
        threshold=config.threshold,
        trained_on=f"{len(table.names)} slides ({int(table.positive.sum())} {config.positive})",
        figures=figures,
    )
    weights, card = out / "model.safetensors", out / "model-card.md"
    write_slide_forest(weights, trees_of(forest), contract)
    atomic_write(card, _card(config, contract, table).encode())
    _write_tables(out, table, found)
    importance = dict(zip(FEATURES, (round(float(v), 6) for v in forest.feature_importances_), strict=True))
    said = {
        "weights": weights.name,
        "config_digest": digest_json(config.model_dump(mode="json", exclude={"results", "cohort"})),
        "slides": len(table.names),
        "without_tissue": list(table.without_tissue),
        "figures": {name: figure.model_dump(mode="json") for name, figure in figures.items()},
        "importance": dict(sorted(importance.items(), key=lambda item: -item[1])),
    }
    atomic_write(out / "report.json", (json.dumps(said, indent=2) + "\n").encode())
    return ForestReport(weights, card, len(table.names), figures)


def read_slides(config: TrainSlideForestConfig) -> SlideTable:
    """Features of the split's slides.

    Raises:
        UsageError: as `train_slide_forest`.
    """
    cohort = read_cohort(config.cohort)
    cohort.check_disjoint()
    slides = cohort.of(config.split)
    if unlabelled := [slide.slide_id for slide in slides if slide.label is None]:
        raise UsageError(f"{config.cohort}: no label for {', '.join(unlabelled)}")
    maps = [_map_of(config, slide) for slide in slides]
    first = next((found for found in maps if found.raster is not None), None)
    if first is None or first.result.heatmap is None:
        raise UsageError(f"{config.results}: no slide of split {config.split!r} holds tissue")
    kept, features, scores = [], [], []
    for slide, found in zip(slides, maps, strict=True):
        if found.probability is None or found.result.heatmap is None:
            continue
        _check_same(config, first, found)
        kept.append(slide)
        features.append(heatmap_features(found.probability, found.result.heatmap.stride_um))
        score, _ = slide_score(found.probability)
        scores.append(0.0 if score is None else score)
    positive = np.array([slide.label == config.positive for slide in kept])
    if min(positive.sum(), (~positive).sum()) < FEWEST:
        raise UsageError(
            f"{config.cohort}: split {config.split!r} has {int(positive.sum())} slides of {config.positive!r} with "
            f"tissue and {int((~positive).sum())} others; a forest needs {FEWEST} of each"
        )
    return SlideTable(
        names=tuple(slide.slide_id for slide in kept),
        patients=tuple(slide.patient or f"slide {slide.slide_id}" for slide in kept),
        positive=positive,
        features=np.stack(features),
        scores=np.array(scores),
        without_tissue=tuple(s.slide_id for s, m in zip(slides, maps, strict=True) if m.raster is None),
        model=first.result.model.name,
        model_digest=first.result.model.digest,
        stride_um=first.result.heatmap.stride_um,
    )


def _map_of(config: TrainSlideForestConfig, slide: CohortSlide) -> SlideMap:
    """The result of a slide: in the folder that `medvision analyze` gives it, or in one called by its id."""
    folders = [config.results / safe_name(slide.path), config.results / slide.slide_id]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UsageError(f"{config.results}: holds no result of slide {slide.slide_id!r}; analyse it first")
    return read_map(folder)


def _check_same(config: TrainSlideForestConfig, first: SlideMap, other: SlideMap) -> None:
    known, found = first.result, other.result
    assert known.heatmap is not None, "compared are slides with tissue"
    assert found.heatmap is not None, "compared are slides with tissue"
    if known.model.digest != found.model.digest or known.heatmap.stride_um != found.heatmap.stride_um:
        raise UsageError(
            f"{config.results}: {first.name} has a heatmap of {known.model.name} ({known.model.digest[:12]}) with "
            f"cells of {known.heatmap.stride_um:g} um, {other.name} one of {found.model.name} "
            f"({found.model.digest[:12]}) with {found.heatmap.stride_um:g} um; a forest needs one model and stride"
        )


def _fit(config: TrainSlideForestConfig, features: Floats, positive: npt.NDArray[np.bool_]) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # a second to load

    forest = RandomForestClassifier(
        n_estimators=config.trees,
        min_samples_leaf=config.least_leaf,
        class_weight="balanced",
        random_state=config.seed,
        n_jobs=1,
    )
    return forest.fit(features.astype(np.float32), positive)


def _cross_validate(config: TrainSlideForestConfig, table: SlideTable) -> Floats:
    """Probabilities (n,) of slides by forests that never saw their patient."""
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(
        len({p for p, y in zip(table.patients, table.positive, strict=True) if y == label})
        for label in (True, False)
    )
    if fewest < 2:
        raise UsageError(
            f"{config.cohort}: a class lies in one patient only, so it cannot be cross-validated"
        )
    folds = StratifiedGroupKFold(min(config.folds, fewest), shuffle=True, random_state=config.seed)
    found = np.full(len(table.names), np.nan)
    for learn, test in folds.split(table.features, table.positive, table.patients):
        if table.positive[learn].all() or not table.positive[learn].any():
            raise UsageError(f"{config.cohort}: a fold without one of the classes; ask for fewer folds")
        trees: Trees = trees_of(_fit(config, table.features[learn], table.positive[learn]))
        found[test] = trees.predict(table.features[test])
    return found


def _figures(table: SlideTable, found: Floats) -> dict[str, Figure]:
    """AUC of the forest, out of fold, and of the plain score on the same slides, with bootstrap over patients."""
    how = f"{len(table.names)} slides, bootstrap over patients"
    groups = np.array(table.patients)
    figures = {}
    for name, values, protocol in (
        ("auc", found, f"out of fold, patients kept apart; {how}"),
        ("auc_plain_score", table.scores, f"highest neighbourhood mean, without a forest; {how}"),
    ):
        interval = interval_over(groups, roc_auc, table.positive, values)
        figures[name] = Figure(value=roc_auc(table.positive, values), interval=interval, protocol=protocol)
    return figures


def _write_tables(out: Path, table: SlideTable, found: Floats) -> None:
    lines: list[tuple[str, ...]] = [("slide", "positive", *FEATURES)]
    for name, positive, values in zip(table.names, table.positive, table.features, strict=True):
        lines.append((name, str(int(positive)), *(f"{value:.6g}" for value in values)))
    _write_csv(out / "features.csv", lines)
    lines = [("slide", "label", "probability")]
    for name, positive, value in zip(table.names, table.positive, found, strict=True):
        lines.append((name, str(int(positive)), f"{value:.6f}"))
    _write_csv(out / "out-of-fold.csv", lines)


def _write_csv(path: Path, lines: list[tuple[str, ...]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    atomic_write(path, text.getvalue().encode())


def _card(config: TrainSlideForestConfig, contract: ForestContract, table: SlideTable) -> str:
    missing = (
        f" Without tissue, and left out: {', '.join(table.without_tissue)}." if table.without_tissue else ""
    )
    sections = {
        "What it does": [
            f"Gives a slide the probability of {config.positive} from {len(FEATURES)} features of its heatmap: a "
            f"random forest of {config.trees} trees, version {config.version}. The heatmap must be of the model "
            f"{contract.model} (SHA-256 {contract.model_digest[:12]}...) with cells of {contract.stride_um:g} µm. A "
            f"slide is positive from {contract.threshold:g}.",
        ],
        "Data": [
            f"{config.data_statement.strip()} {contract.trained_on}, of {len(set(table.patients))} patients.{missing}",
        ],
        "Measured": figure_table(contract.figures),
    }
    return lay_out(config, sections)
