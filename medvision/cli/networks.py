"""What `medvision models show` says of networks without weights, and of weights of segmentation networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvision.cli.console import console, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from medvision.models.architectures import Architecture
    from medvision.models.contract import Figure
    from medvision.models.segmentation import SegmentContract

WEIGHTS = "model.safetensors"
_SAID_APART = ("kind", "architecture", "figures", "options")


def is_segment_model(path: Path) -> bool:
    """Whether `path` is a safetensors file, or a folder with one of the name that trainings write."""
    return path.suffix == ".safetensors" or (path / WEIGHTS).is_file()


def network_facts(entry: Architecture) -> dict[str, Any]:
    """What is known of a network without weights, but its contract."""
    known = ("family", "task", "paper", "licence", "parameters", "home", "command")
    return {key: getattr(entry, key) for key in known}


def show_network(name: str, entry: Architecture, as_json: bool) -> int:
    """Print a network's place in the list and the contract that it has where nobody asks for another."""
    if as_json:
        usual = None if entry.usual is None else entry.usual.model_dump(mode="json")
        print(json.dumps({"architecture": name, **network_facts(entry), "contract": usual}, indent=2))
        return 0
    console.print(f"{name} - research use only", markup=False)
    count = entry.parameters
    _print_lines(
        {
            "family": entry.family,
            "task": entry.task,
            "paper": entry.paper,
            "licence": entry.licence,
            "parameters": "as many as what it is trained on asks for" if count is None else f"{count:,}",
            "trained by": f"medvision {entry.command}" if entry.command else "from Python",
            "code": entry.home,
        }
    )
    console.print()
    if entry.usual is None:
        console.print("Contract: as the table of features says that it is trained on.", soft_wrap=True)
        return 0
    console.print("Contract, where nobody asks for another")
    _print_lines(_contract_lines(entry.usual))
    return 0


def show_segment_model(path: Path, as_json: bool) -> int:
    """Print what the weights of a segmentation network say of themselves."""
    from medvision.models.architectures import ARCHITECTURES
    from medvision.models.segmentation import read_segment_model

    model = read_segment_model(path)
    file = path / WEIGHTS if path.is_dir() else path
    entry = ARCHITECTURES[model.contract.architecture]
    said = {
        "architecture": model.contract.architecture,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "licence": "as whoever trained the weights says",
        "paper": entry.paper,
        "weights": f"{file.name}, {file.stat().st_size / 1e6:.2f} MB",
        "digest": model.digest,
    }
    if as_json:
        print(json.dumps({**said, "contract": model.contract.model_dump(mode="json")}, indent=2))
        return 0
    console.print(f"{model.name} - research use only", markup=False)
    _print_lines(said | {"parameters": f"{said['parameters']:,}"})
    console.print()
    console.print("Contract")
    _print_lines(_contract_lines(model.contract))
    print_figures(model.contract.figures)
    return 0


def print_figures(figures: Mapping[str, Figure]) -> None:
    """Print the measured figures of a contract, if it has any."""
    if not figures:
        return
    rows = [
        (
            name.replace("_", " "),
            f"{figure.value:.3f}",
            "" if figure.interval is None else f"{figure.interval[0]:.3f} to {figure.interval[1]:.3f}",
            figure.protocol,
        )
        for name, figure in figures.items()
    ]
    console.print()
    console.print(table("Measured", ("figure", "value", "95% interval", "how"), rows))


def _contract_lines(contract: BaseModel) -> dict[str, str]:
    """The fields that hold something, and the options: of a segmentation network those that it reads, with the rest."""
    from medvision.models.segmentation import SegmentContract

    fields = contract.model_dump(mode="json")
    lines = {
        key.replace("_", " "): _text(value)
        for key, value in fields.items()
        if key not in _SAID_APART and value not in (None, "", [], {})
    }
    options = fields.get("options", {})
    if isinstance(contract, SegmentContract):
        lines |= _window_lines(contract)
        from medvision.models.segmentation.designs import SEGMENTERS

        reads = SEGMENTERS[contract.architecture].reads
        options = {key: value for key, value in options.items() if key in reads and value != ""}
    lines |= {f"option {key}": _text(value) for key, value in options.items()}
    return lines


def _window_lines(contract: SegmentContract) -> dict[str, str]:
    """The sides that fit, and the numbers of axes."""
    from medvision.models.segmentation.designs import SEGMENTERS

    design = SEGMENTERS[contract.architecture]
    multiple, lost = design.multiple(contract), design.lost(contract)
    sides = f"multiples of {multiple}" if not lost else f"{lost} and a multiple of {multiple}"
    kinds = {(2,): "images", (3,): "volumes", (2, 3): "images and volumes"}
    return {"sides": sides, "takes": kinds[design.axes]}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print_lines(lines: Mapping[str, object]) -> None:
    width = max(map(len, lines))
    for name, text in lines.items():
        console.print(f"  {name:<{width}}  {text}", markup=False, highlight=False, soft_wrap=True)
