"""`medvision models`: the models that can be named, what each says of itself, and measuring one."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from medvision.cli.console import console, errors, print_made, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from medvision.models.architectures import Architecture
    from medvision.models.catalogue import LoadedModel
    from medvision.models.contract import Difference

app = App(
    name="models",
    help="List the models that can be named; `show` one, or `measure` how exactly it can be computed faster.",
)


@app.default
def list_all(*, as_json: Annotated[bool, Parameter(name="--json")] = False) -> int:
    """List the models that can be named, with their contracts.

    Example: medvision models

    Parameters
    ----------
    as_json
        Print JSON: models with their contracts, then the networks that can be trained.
    """
    from medvision.cli.networks import network_facts
    from medvision.models import list_models
    from medvision.models.architectures import list_architectures

    if as_json:
        models = [{"kind": "model", **asdict(row)} for row in list_models()]
        networks = [
            {"kind": "network", "name": name, **network_facts(entry)}
            for name, entry in list_architectures().items()
        ]
        print(json.dumps([*models, *networks], indent=2, default=str))
        return 0
    columns = ("name", "window", "µm/px", "classes", "AUC", "MB", "licence")
    shown = [
        (
            row.name,
            f"{row.window_px} px",
            f"{row.spacing_um:g}",
            ", ".join(row.classes),
            "" if row.auc is None else f"{row.auc:.2f}",
            "--weights" if row.megabytes is None else f"{row.megabytes:.1f}",
            row.licence.partition(";")[0],
        )
        for row in list_models()
    ]
    console.print(table("Models - research use only", columns, shown))
    console.print()
    for _, group in groupby(list_architectures().items(), lambda item: item[1].family):
        console.print(_networks(dict(group)))
        console.print()
    console.print("`medvision models show NAME` says all of one.")
    console.print("Any torchvision or timm classifier works with local weights:")
    console.print("  --model resnet50 --weights FILE --classes normal,tumor --spacing 0.5", soft_wrap=True)
    return 0


@app.command
def show(
    model: str,
    /,
    *,
    weights: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Say all that a model's weights say of it: input, classes, calibration, figures, ways to compute it, digest.

    Of a network that is trained here: its contract, paper, licence and parameters, without weights.

    Example: medvision models show camelyon-mini
    Example: medvision models show unet-original

    Parameters
    ----------
    model
        Name of a model or of a network; or a folder or safetensors file with the weights of a segmentation network.
    weights
        Its weights, where they are not the shipped ones.
    as_json
        Print JSON.
    """
    from medvision.cli.networks import is_segment_model, print_figures, show_network, show_segment_model
    from medvision.models import MODELS, read_model
    from medvision.models.architectures import list_architectures

    if weights is None and model not in MODELS:
        networks = list_architectures()
        if model in networks:
            return show_network(model, networks[model], as_json)
        if is_segment_model(Path(model)):
            return show_segment_model(Path(model), as_json)
    loaded = read_model(model, weights=weights)
    said = _described(loaded)
    if as_json:
        fields = loaded.contract.model_dump(mode="json")
        print(json.dumps({**said, "contract": fields}, indent=2))
        return 0
    contract = loaded.contract
    lines = {
        **said,
        "window": f"{contract.window_px} px at {contract.spacing_um:g} µm/px",
        "classes": ", ".join(contract.classes),
        "positive": contract.positive or contract.classes[-1],
        "input": f"RGB / 255, mean {contract.mean}, standard deviation {contract.std}",
        "calibration": contract.calibration,
        "temperature": f"{contract.temperature:g}",
        "precisions": ", ".join(contract.precisions),
    }
    console.print(f"{model} - research use only", markup=False)
    for name, text in lines.items():
        console.print(f"  {name:<13} {text}", markup=False, highlight=False, soft_wrap=True)
    print_figures(contract.figures)
    console.print()
    _print_differences(contract.differences)
    return 0


@app.command
def measure(
    model: str,
    /,
    *,
    windows: Path,
    slides: tuple[Path, ...] = (),
    out: Path | None = None,
    weights: Path | None = None,
    classes: tuple[str, ...] | None = None,
    spacing: float | None = None,
) -> int:
    """Measure how far each faster way of computing a model is from plain float32, and write it beside the weights.

    Example: medvision models measure camelyon-mini --windows patches --slides slide.svs --out measured.safetensors

    The copy has the same tensors and the same digest. With it, `--precision auto` takes bfloat16 where that changes no
    probability by more than 0.01 and no AUC in its third decimal, and the processor is fast at it.

    Parameters
    ----------
    model
        Name of the model.
    windows
        Folder of labelled images: one sub-folder per class; the whole field of an image is one window.
    slides
        Slides whose heatmaps are computed in every way as well.
    out
        The .safetensors file to write. Default: print only.
    weights
        Its weights, where they are not the shipped ones.
    classes
        Names of the outputs in order, where the weights carry no contract.
    spacing
        µm/px of the windows, where the weights carry no contract.
    """
    from medvision.models import read_model
    from medvision.pipelines.measure import measure_model

    loaded = read_model(model, weights=weights, classes=classes, spacing_um=spacing)
    with errors.status("measuring"):
        found = measure_model(loaded, windows, slides, out)
    _print_differences(found.differences)
    for (backend, precision), reason in found.refused.items():
        console.print(f"not measured: {backend} in {precision}: {reason}", markup=False, soft_wrap=True)
    for name, path in found.files.items():
        print_made(name, path)
    return 0


def _networks(members: dict[str, Architecture]) -> Table:
    """A family of networks. What all share stands above, once, so that narrow terminals have room for the rest."""
    facts = {
        "trained by": [
            f"medvision {entry.command}" if entry.command else "from Python" for entry in members.values()
        ],
        "licence": [entry.licence for entry in members.values()],
    }
    shared = [values[0] for values in facts.values() if len(set(values)) == 1]
    own = {name: values for name, values in facts.items() if len(set(values)) > 1}
    entries = list(members.values())
    tasks = sorted({entry.task for entry in entries})
    count = ["" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M" for entry in entries]
    columns = {"name": list(members), "parameters": count, **own, "paper": [entry.paper for entry in entries]}
    title = f"{entries[0].family} - {'; '.join([*tasks, *shared])}"
    return table(title, tuple(columns), list(zip(*columns.values(), strict=True)))


def _described(loaded: LoadedModel) -> dict[str, str]:
    """What the catalogue and the network say beside the contract."""
    from medvision.models import MODELS

    entry = MODELS[loaded.name] if loaded.name in MODELS else None  # noqa: SIM401 - `get` would raise our own error
    shipped = entry is not None and entry.path == loaded.path
    licence = entry.licence if entry is not None and shipped else "as whoever trained the weights says"
    return {
        "architecture": loaded.contract.architecture,
        "parameters": f"{sum(p.numel() for p in loaded.net.parameters()):,}",
        "version": loaded.contract.version or "not stated",
        "licence": licence,
        "paper": "see the library that the network is from" if entry is None else entry.paper,
        "weights": f"{loaded.path.name}, {loaded.path.stat().st_size / 1e6:.2f} MB",
        "digest": loaded.model.digest,
    }


def _print_differences(differences: Sequence[Difference]) -> None:
    from medvision.training.card import difference_note, difference_rows

    if not differences:
        console.print(
            "Ways to compute it: none measured, so `--precision auto` stays in float32 (`medvision models measure`).",
            soft_wrap=True,
        )
        return
    columns = ("backend", "precision", "probability", "AUC", "heatmap", "mean", "close")
    console.print(table("Largest change by a way to compute it", columns, difference_rows(differences)))
    console.print(difference_note(differences), markup=False, soft_wrap=True)
