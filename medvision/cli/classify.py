"""`medvision classify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from medvision.cli.console import (
    console,
    errors,
    print_made,
    print_outcome,
    slide_progress,
    table,
    without_prefix,
)
from medvision.core.errors import UsageError
from medvision.pipelines.image_config import ImageConfig, ImageOptions

if TYPE_CHECKING:
    from medvision.pipelines.classify import ClassifyOutcome
    from medvision.pipelines.classify_images import ImagesOutcome

_SHOWN = 20


def classify(
    images: list[Path],
    /,
    *,
    out: Path,
    model: str = "camelyon-mini",
    weights: Path | None = None,
    classes: tuple[str, ...] | None = None,
    spacing: float | None = None,
    image_spacing: float | None = None,
    window: int | None = None,
    device: str = "auto",
    batch_size: int = 32,
    options: Annotated[ImageOptions, Parameter(name="*")] = ImageOptions(),  # noqa: B008 - frozen
    predictions_only: bool = False,
    split: str | None = None,
) -> int:
    """Classify images, or every image in a folder, one by one.

    Example: medvision classify xrays/ --model out/pneumonia --out results

    With weights of `medvision train classify` each image gets a folder with report.html and result.json; beside them
    lie index.html, predictions.csv and results.json. With any other model, one of windows of slides, results.json alone
    is written. Exit status 0 if all images are classified, 1 if some are not, 2 if none is.

    Parameters
    ----------
    images
        Image files (PNG, JPEG, BMP, WebP, TIFF, DICOM), or folders of them.
    out
        Output folder; made when absent.
    model
        Weights of `medvision train classify`, or the folder of that training. Else a model of `medvision models`, a
        torchvision or timm network, or the folder of a trained CNN-LSTM or MIL model, which judges each image as a
        whole from its patches.
    weights
        Local weights for that network, or for the trunk of a CNN-LSTM or MIL model.
    classes
        Class names, in the order of the network's outputs.
    spacing
        µm/px at which the network looks, where its contract does not say.
    image_spacing
        µm/px of the images. Without it each image is taken to show exactly one window of the model.
    window
        Side of the network's window in pixels, where its contract does not say.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    batch_size
        Windows, or images, per batch.
    predictions_only
        Write predictions.csv and results.json alone, for thousands of images or a MedMNIST archive (.npz).
    split
        Which part of a MedMNIST archive: train, val or test. Default: test.
    """
    of_windows = {
        "weights": weights,
        "classes": classes,
        "spacing": spacing,
        "image-spacing": image_spacing,
        "window": window,
    }
    if _is_image_model(Path(model)):
        _refuse(of_windows, "a model of windows of slides", model)
        fields = {name: getattr(options, name) for name in options.model_fields_set}
        config = ImageConfig(model=Path(model), device=device, batch_size=batch_size, **fields)
        return _whole_images(images, out, config, predictions_only, split)
    _refuse_empty_folder(model)
    of_images = {name.replace("_", "-"): getattr(options, name) for name in options.model_fields_set}
    of_images |= {"predictions-only": predictions_only or None, "split": split}
    _refuse(of_images, "weights of `medvision train classify`", model)
    return _windows(images, out, model, weights, classes, spacing, image_spacing, window, device, batch_size)


def _is_image_model(model: Path) -> bool:
    """Whether these are weights of a classifier of whole images, or the folder of a training of one."""
    inside = model / "model.safetensors"
    file = inside if inside.is_file() else model
    if file.suffix != ".safetensors" or not file.is_file():
        return False
    from medvision.models.weights import read_metadata

    return read_metadata(file).get("kind") == "image"


def _refuse_empty_folder(model: str) -> None:
    """A folder without weights is meant for one of a training; its name says nothing to the libraries of networks."""
    if Path(model).is_dir() and not (Path(model) / "model.safetensors").is_file():
        from medvision.models.catalogue import MODELS
        from medvision.pipelines.configured_image import weights_file

        if model not in MODELS:
            weights_file(Path(model))


def _refuse(options: Mapping[str, object], of: str, model: str) -> None:
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: for {of}, and {model!r} is none; leave it out")


def _whole_images(
    images: list[Path], out: Path, config: ImageConfig, predictions_only: bool, split: str | None
) -> int:
    from medvision.pipelines.classify_images import (
        ARCHIVE_SUFFIX,
        list_still_images,
        predict_archive,
        predict_files,
    )

    archives = [path for path in images if path.suffix.lower() == ARCHIVE_SUFFIX]
    if split is not None and not archives:
        raise UsageError("--split is for MedMNIST archives (.npz), and none was given")
    if archives:
        if len(images) > 1 or not predictions_only:
            raise UsageError(
                f"{archives[0]}: an archive is classified by itself and without pages; pass it alone, with "
                "--predictions-only"
            )
        with slide_progress() as progress:
            made = predict_archive(
                archives[0], split or "test", out, config, progress.on_plan, progress.on_windows
            )
        return _show_tables(made)
    listed = list_still_images(images)
    if predictions_only:
        with slide_progress() as progress:
            made = predict_files(listed, out, config, progress.on_plan, progress.on_windows)
        return _show_tables(made)
    from medvision.pipelines.classify_image import check_image_config, image_command
    from medvision.pipelines.classify_images import classify_each, write_tables
    from medvision.pipelines.recorded import Recorded

    check_image_config(config)  # what is wrong with it is said before anything is written
    outcomes = []
    paths, names = [one.path for one in listed], [one.name for one in listed]
    recorded = Recorded(paths, out, config, image_command(config), names)
    try:
        with recorded, slide_progress() as progress:
            each = classify_each(listed, out, config, progress.on_plan, progress.on_windows)
            for outcome in recorded.take(each):
                print_outcome(outcome)
                outcomes.append(outcome)
    finally:
        if recorded.page is not None:
            print_made("report", recorded.page)
    return _made(write_tables(outcomes, out, config))


def _show_tables(made: ImagesOutcome) -> int:
    """Print what was found in a pass without pages; returns the exit status."""
    names = made.content.model.classes
    rows = [
        (
            one.image,
            one.predicted,
            *(f"{one.probabilities[name]:.4f}" for name in names),
            "unlike training" if one.in_scope is False else "",
        )
        for one in made.content.results
    ]
    _print_rows(("image", "class", *names, ""), rows)
    strangers = sum(one.in_scope is False for one in made.content.results)
    if strangers:
        console.print(f"{strangers} of {len(rows)} are unlike the training images: see results.json")
    _print_failed([(one.image, one.reason) for one in made.content.failed])
    return _made(made)


def _made(made: ImagesOutcome) -> int:
    print_made("predictions", made.predictions)
    print_made("results", made.results)
    return _status(len(made.content.results), len(made.content.failed))


def _windows(
    images: list[Path],
    out: Path,
    model: str,
    weights: Path | None,
    classes: tuple[str, ...] | None,
    spacing: float | None,
    image_spacing: float | None,
    window: int | None,
    device: str,
    batch_size: int,
) -> int:
    """Images as windows of a slide, or as a sequence of them."""
    if (Path(model) / "model.safetensors").is_file() or Path(model).suffix == ".safetensors":
        from medvision.pipelines.aggregate import prepare_judge
        from medvision.pipelines.aggregate_config import AggregateConfig
        from medvision.pipelines.classify_whole import classify_whole

        wanted = AggregateConfig(
            model=Path(model),
            classes=classes,
            trunk_weights=weights,
            spacing=spacing,
            window=window,
            device=device,
            batch_size=batch_size,
        )
        judge = prepare_judge(wanted)
        names = judge.model.contract.classes
        outcome = classify_whole(images, judge, out, spacing_um=image_spacing)
    else:
        from medvision.models import load_model
        from medvision.pipelines.classify import classify_images

        network = load_model(model, weights=weights, classes=classes, spacing_um=spacing, window_px=window)
        names = network.classes
        outcome = classify_images(
            images, network, out, spacing_um=image_spacing, device=device, batch_size=batch_size
        )
    return _show(outcome, names)


def _show(outcome: ClassifyOutcome, names: tuple[str, ...]) -> int:
    """Print what was found; returns the exit status."""
    rows = [
        (
            Path(entry.path).name,
            entry.predicted,
            *(f"{entry.probabilities[name]:.4f}" for name in names),
        )
        for entry in outcome.results
    ]
    _print_rows(("image", "class", *names), rows)
    _print_failed([(failure.path, failure.reason) for failure in outcome.failed])
    print_made("results", outcome.file)
    return _status(len(outcome.results), len(outcome.failed))


def _print_rows(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        console.print(table("", columns, rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        console.print(f"... and {len(rows) - _SHOWN} more")


def _print_failed(failed: Sequence[tuple[str, str]]) -> None:
    for name, reason in failed:
        errors.print(f"failed: {name}: {without_prefix(reason, name)}", markup=False, soft_wrap=True)


def _status(done: int, failed: int) -> int:
    return 2 if not done else (1 if failed else 0)
