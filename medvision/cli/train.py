"""`medvision train`."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from medvision.cli.console import print_check, print_note, print_trained

app = App(
    name="train",
    help="Train a model. Example: medvision train patch --config configs/train-patch.yaml --out out",
)


@app.command
def patch(*, config: Path, out: Path, cohort: Path | None = None) -> int:
    """Train a patch classifier on folders of patches or, where the configuration names a `cohort`, on annotated slides.

    From patches: cross-validation that keeps slides apart, then the final model. From slides: windows drawn by
    annotation, patients kept out to validate on, rounds of learning from its own false alarms.
    Example: medvision train patch --config configs/train-cohort-patch.yaml --out out/patch

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-patch.yaml and configs/train-cohort-patch.yaml.
    out
        Folder for weights, card, checkpoints and logs; an interrupted training continues there.
    cohort
        Manifest of slides, in place of the one that the configuration names.
    """
    from medvision.core.errors import UsageError
    from medvision.training.config_file import has_field

    if has_field(config, "cohort") or (cohort is not None and not has_field(config, "patches")):
        return _on_slides(config, out, cohort)
    if cohort is not None:
        raise UsageError(f"{config}: trains on folders of patches, so --cohort has no meaning")
    return _on_patches(config, out)


def _on_patches(config: Path, out: Path) -> int:
    from medvision.synthetic import synthetic_patches
    from medvision.training.patch import train_patch
    from medvision.training.patch_config import read_config

    report = train_patch(read_config(config), out, synthetic_patches, print_check)
    return print_trained(report.summary(), weights=report.weights, card=report.card)


def _on_slides(config: Path, out: Path, cohort: Path | None) -> int:
    from medvision.training.cohort_config import read_cohort_patch_config
    from medvision.training.cohort_patch import train_cohort_patch

    report = train_cohort_patch(read_cohort_patch_config(config, cohort), out, print_check, print_note)
    return print_trained(report.summary(), weights=report.weights, card=report.card)


app.command(
    "medvision.cli.train_ncrf:ncrf",
    name="ncrf",
    help="Train an NCRF, a patch classifier whose neighbours vote, and its base model.",
)
app.command("medvision.cli.train_slides:mil", name="mil", help="Train attention MIL on labelled slides.")
app.command(
    "medvision.cli.train_slides:cnn_lstm",
    name="cnn-lstm",
    help="Train a CNN-LSTM on the ordered patches of slides or large images.",
)

app.command(
    "medvision.cli.train_nodules:nodules",
    name="nodules",
    help="Train a detector of candidates for lung nodules on CT scans.",
)
app.command(
    "medvision.cli.train_nodules:nodule_fpr",
    name="nodule-fpr",
    help="Train a 3-D network that tells nodules from other candidates.",
)
app.command(
    "medvision.cli.train_classify:classify",
    name="classify",
    help="Train a classifier of images, such as OCT scans, chest X-rays or photographs of the skin.",
)
app.command(
    "medvision.cli.train_segment:segment",
    name="segment",
    help="Train a network that says what each pixel or voxel is.",
)


@app.command(name="slide-forest")
def slide_forest(*, config: Path, out: Path, cohort: Path | None = None, results: Path | None = None) -> int:
    """Train a random forest that classifies slides by features of their heatmaps (Wang et al. 2016).

    Example: medvision train slide-forest --config configs/train-slide-forest.yaml --out out/slide-forest

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-slide-forest.yaml.
    out
        Folder for the forest, its card, the features and the out-of-fold probabilities.
    cohort
        Manifest (CSV) of slides, in place of the configuration's.
    results
        Output folder of `medvision analyze` with the heatmaps of those slides, in place of the configuration's.
    """
    from medvision.training.config_file import read_yaml_config
    from medvision.training.slide_forest import train_slide_forest
    from medvision.training.slide_forest_config import TrainSlideForestConfig

    read = read_yaml_config(config, TrainSlideForestConfig, cohort=cohort, results=results)
    report = train_slide_forest(read, out)
    return print_trained(report.summary(), weights=report.weights, card=report.card)
