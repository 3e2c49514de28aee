"""`medvision train mil` and `medvision train cnn-lstm`: feature tables first, then the aggregator."""

from __future__ import annotations

from pathlib import Path

from medvision.cli.console import (
    errors,
    print_check,
    print_note,
    print_outcome,
    print_trained,
    slide_progress,
)
from medvision.core.errors import UsageError


def mil(
    *,
    config: Path,
    out: Path,
    cohort: Path | None = None,
    features: Path | None = None,
    architecture: str | None = None,
) -> int:
    """Train attention MIL on slides that have a label each: ABMIL, CLAM, DSMIL or TransMIL.

    Example: medvision train mil --config configs/train-mil.yaml --out out/abmil

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-mil.yaml.
    out
        Folder for weights, card, checkpoints and logs; an interrupted training continues there.
    cohort
        Manifest (CSV) of slides, in place of the configuration's.
    features
        Folder of feature tables, kept and used again. Default: features below the output.
    architecture
        abmil, clam-sb, clam-mb, dsmil or transmil, in place of the configuration's.
    """
    return _train(config, out, cohort, features, architecture, sequences=False)


def cnn_lstm(*, config: Path, out: Path, cohort: Path | None = None, features: Path | None = None) -> int:
    """Train a CNN-LSTM on the ordered patches of slides or large images that have a label each.

    Example: medvision train cnn-lstm --config configs/train-cnn-lstm.yaml --out out/cnn-lstm

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-cnn-lstm.yaml.
    out
        Folder for weights, card, checkpoints and logs; an interrupted training continues there.
    cohort
        Manifest (CSV) of slides or images, in place of the configuration's.
    features
        Folder of feature tables, kept and used again. Default: features below the output.
    """
    return _train(config, out, cohort, features, None, sequences=True)


def _train(
    config: Path,
    out: Path,
    cohort: Path | None,
    features: Path | None,
    architecture: str | None,
    sequences: bool,
) -> int:
    from medvision.pipelines.features import cohort_job, compute_features, prepare_trunk
    from medvision.store.cohort import read_cohort
    from medvision.store.features import read_features
    from medvision.training.config_file import read_yaml_config
    from medvision.training.slides import train_slides
    from medvision.training.slides_config import TrainSlidesConfig
    from medvision.training.slides_data import gather

    settings = read_yaml_config(config, TrainSlidesConfig, cohort=cohort, architecture=architecture)
    if (settings.architecture == "cnn-lstm") != sequences:
        command = "mil" if sequences else "cnn-lstm"
        raise UsageError(
            f"{config}: architecture {settings.architecture!r} is trained by `medvision train {command}`"
        )
    manifest = read_cohort(settings.cohort)
    print_note(manifest.check_disjoint())
    slides = manifest.slides if settings.split is None else manifest.of(settings.split)
    if settings.split is None:
        slides = tuple(slide for slide in slides if slide.label is not None)
    folder = out / "features" if features is None else features
    jobs = {slide.slide_id: cohort_job(slide) for slide in slides}
    with slide_progress() as progress:
        trunk = prepare_trunk(settings.features, progress.on_windows)
        outcomes = list(compute_features(list(jobs.values()), folder, trunk, progress.on_plan))
    bad = [outcome for outcome in outcomes if not outcome.ok]
    for outcome in bad:
        print_outcome(outcome)
    if bad:
        errors.print(f"medvision: error: {len(bad)} of {len(slides)} slides have no features", markup=False)
        return 1
    print_note(f"features of {len(slides)} slides, {sum(o.windows for o in outcomes):,} windows")
    data = gather(slides, settings.classes, lambda slide: read_features(folder / jobs[slide.slide_id].name))
    report = train_slides(settings, data, out, print_check)
    return print_trained(report.summary(), weights=report.weights, card=report.card)
