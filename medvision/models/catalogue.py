"""The models that can be asked for by name, and how a name, a weights file and a contract become a `PatchModel`.

Three kinds of name: those of the catalogue, whose weights are shipped; every classifier of torchvision; every one of
timm. The latter two take local weights. Nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError, WeightsError
from medvision.core.geometry import Spacing
from medvision.core.registry import Registry
from medvision.engine.contract import Normalisation, PatchModel
from medvision.models.classifiers.recipe import Recipe, choose
from medvision.models.classifiers.slim_resnet import SlimResNet
from medvision.models.contract import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CellGrid,
    IsotonicSoftmax,
    TemperedSoftmax,
    WeightsContract,
)
from medvision.models.ncrf import MEAN as NCRF_MEAN
from medvision.models.ncrf import PUBLISHED, SLIM, build_ncrf, load_ncrf
from medvision.models.ncrf import STD as NCRF_STD
from medvision.models.weights import State, apply_weights, digest_state, read_weights

DEFAULT_MODEL = "camelyon-mini"
SHIPPED = Path(__file__).parent / "weights"
_WEIGHTS_OPTION = "--weights FILE (a local safetensors file; nothing is downloaded)"
Floats = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model of the catalogue.

    `file`, where weights are shipped, lies in `weights/`: safetensors with its contract inside, and beside it a card,
    `.md`. A model without it takes local weights; `contract` is then what those are taken to want that carry none.
    `load` makes the network where the weights themselves say more about it than the number of classes.
    """

    family: str
    build: Callable[[int], nn.Module]
    licence: str
    paper: str
    file: str | None = None
    contract: WeightsContract | None = None
    load: Callable[[State, WeightsContract, Path], tuple[nn.Module, WeightsContract]] | None = None
    intended_use: str = "research use only"

    @property
    def path(self) -> Path | None:
        """The weights file, where one is shipped."""
        return None if self.file is None else SHIPPED / self.file

    @property
    def card(self) -> str:
        """Text of the model card; empty where no weights are shipped."""
        return "" if self.path is None else self.path.with_suffix(".md").read_text(encoding="utf-8")


MODELS: Registry[CatalogueEntry] = Registry("model")

MODELS.register("camelyon-mini")(
    CatalogueEntry(
        family="slim-resnet",
        build=lambda classes: SlimResNet(classes),
        file="camelyon-mini.safetensors",
        licence="Apache-2.0; trained on CC0 data",
        paper="He et al., CVPR 2016 (residual blocks); Pan et al., ECCV 2018 (split normalisation)",
    )
)


def _register_ncrf(trunk: str, grid: CellGrid, spacing_um: float, mean: Floats, std: Floats) -> None:
    name = f"ncrf-{trunk}"
    MODELS.register(name)(
        CatalogueEntry(
            family="ncrf",
            build=lambda _classes: build_ncrf(trunk),
            licence="code Apache-2.0; weights: as whoever trained them says",
            paper="Li & Ping, MIDL 2018 (neural conditional random field)",
            contract=WeightsContract(
                architecture=name,
                classes=("normal", "tumor"),
                window_px=grid.window_px,
                spacing_um=spacing_um,
                mean=mean,
                std=std,
                temperature=1.0,
                isotonic=None,
                grid=grid,
            ),
            load=partial(load_ncrf, trunk),
        )
    )


_register_ncrf("resnet18", PUBLISHED, 0.25, NCRF_MEAN, NCRF_STD)
_register_ncrf("resnet34", PUBLISHED, 0.25, NCRF_MEAN, NCRF_STD)
_register_ncrf("slim", SLIM, 0.5, IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of the list of models. `megabytes` is None for those whose weights are not shipped."""

    name: str
    family: str
    window_px: int
    spacing_um: float
    classes: tuple[str, ...]
    positive: str
    licence: str
    megabytes: float | None
    auc: float | None
    auc_interval: tuple[float, float] | None
    intended_use: str


def list_models() -> list[ModelRow]:
    """The models of the catalogue, as their weights files describe them where those are shipped."""
    rows = []
    for name, entry in MODELS.items():
        contract = entry.contract
        if entry.path is not None:
            contract = _contract_in(entry.path, read_weights(entry.path)[1])
        if contract is None:
            raise WeightsError(f"model {name!r}: neither shipped weights nor the catalogue hold its contract")
        auc = contract.figures.get("auc")
        rows.append(
            ModelRow(
                name=name,
                family=entry.family,
                window_px=contract.window_px,
                spacing_um=contract.spacing_um,
                classes=contract.classes,
                positive=contract.positive or contract.classes[-1],
                licence=entry.licence,
                megabytes=None if entry.path is None else round(entry.path.stat().st_size / 1e6, 2),
                auc=None if auc is None else auc.value,
                auc_interval=None if auc is None else auc.interval,
                intended_use=entry.intended_use,
            )
        )
    return rows


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with all that its weights say. `card` is empty where the weights are not the shipped ones."""

    name: str
    path: Path
    net: nn.Module
    contract: WeightsContract
    card: str

    @property
    def model(self) -> PatchModel:
        """The model, ready to run."""
        return as_patch_model(self.name, self.net, self.contract, self.card)


def load_model(
    name: str = DEFAULT_MODEL,
    *,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
    spacing_um: float | None = None,
    window_px: int | None = None,
    positive: str | None = None,
) -> PatchModel:
    """The model called `name`, ready to run.

    Args:
        name: of the catalogue (`list_models`), or a classifier of torchvision or timm (`resnet50`, `timm/resnet50`).
        weights: local safetensors or PyTorch state dictionary; needed for all but catalogue names.
        classes: one name per output, in the order in which the weights were trained.
        spacing_um: of the windows that the weights want, micrometres per pixel.
        window_px: side of a window; for torchvision and timm the network's own input size by default.
        positive: the class that a heatmap shows; by default the last.
            What the weights file's own contract says need not be given; what is given wins over it.

    Raises:
        UnknownNameError: for a name that none of the three knows.
        UsageError: if something is missing, with the options to pass, or is not possible.
        WeightsError: if the weights are unsafe, unreadable, or of another network or number of classes.
    """
    return read_model(
        name, weights=weights, classes=classes, spacing_um=spacing_um, window_px=window_px, positive=positive
    ).model


def read_model(
    name: str = DEFAULT_MODEL,
    *,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
    spacing_um: float | None = None,
    window_px: int | None = None,
    positive: str | None = None,
) -> LoadedModel:
    """The network called `name`, with its contract; arguments and errors as those of `load_model`."""
    entry = MODELS[name] if name in MODELS else None  # noqa: SIM401 - `get` would raise our own error
    if entry is None:
        from medvision.models.classifiers.foreign import find

        recipes = find(name)
    else:
        recipes = [Recipe("medvision", entry.build, None)]
    path = weights if weights is not None else None if entry is None else entry.path
    usual = None if entry is None else entry.contract
    if path is None and usual is not None:
        raise UsageError(f"model {name!r} needs {_WEIGHTS_OPTION}")
    if path is None:
        _refuse_missing(name, None, classes, spacing_um, window_px or recipes[0].window_px)
        raise AssertionError("missing weights are always refused")
    state, metadata = read_weights(path)
    recipe = choose(recipes, state)
    found = _contract_in(path, metadata) or usual
    window = window_px or recipe.window_px
    if found is None:
        _refuse_missing(name, path, classes, spacing_um, window)
    contract = _merged(name, found, classes, spacing_um, window, window_px, positive)
    if found is None:
        contract = contract.model_copy(update={"mean": recipe.mean, "std": recipe.std})
    if entry is not None and entry.load is not None:
        net, contract = entry.load(state, contract, path)
        return LoadedModel(name, path, net, contract, "")
    net = recipe.build(len(contract.classes))
    _check_classes(net, state, contract.classes, path)
    apply_weights(net, state, path)
    card = entry.card if entry is not None and weights is None else ""
    return LoadedModel(name, path, net, contract, card)


def as_patch_model(name: str, net: nn.Module, contract: WeightsContract, card: str = "") -> PatchModel:
    """A network with its contract, in evaluation mode. The digest covers its weights and all that changes outputs."""
    left_out = {"figures", "calibration", "version", "precisions", "differences"}
    positive = contract.positive or contract.classes[-1]
    activation: TemperedSoftmax | IsotonicSoftmax = TemperedSoftmax(contract.temperature)
    if contract.grid is None:
        left_out.add("grid")
    if contract.isotonic is None:
        left_out.add("isotonic")
    else:
        index = contract.classes.index(positive)
        activation = IsotonicSoftmax(contract.temperature, contract.isotonic, index)
    said = contract.model_dump(mode="json", exclude=left_out)
    return PatchModel(
        name=name,
        net=net.eval(),
        window=(contract.window_px, contract.window_px),
        spacing=Spacing((contract.spacing_um, contract.spacing_um), "um", "supplied"),
        normalisation=Normalisation(contract.mean, contract.std),
        output="scores",
        classes=contract.classes,
        digest=digest_json([said, digest_state(net.state_dict())]),
        activation=activation,
        positive=positive,
        precisions=contract.precisions,
        close=contract.close,
        version=contract.version,
        calibration=contract.calibration,
        card=card,
    )


def _contract_in(path: Path, metadata: dict[str, Any]) -> WeightsContract | None:
    if not metadata:
        return None
    try:
        return WeightsContract.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            f"{path}: the contract in its metadata is wrong at {where!r}: {first['msg']}"
        ) from error


def _refuse_missing(
    name: str,
    path: Path | None,
    classes: Sequence[str] | None,
    spacing_um: float | None,
    window_px: int | None,
) -> None:
    """Raise for what neither the call nor the file says, naming the options that would say it."""
    missing = []
    if path is None:
        missing.append(_WEIGHTS_OPTION)
    if classes is None:
        missing.append("--classes NAME,NAME,... (in the order of the outputs)")
    if spacing_um is None:
        missing.append("--spacing UM (micrometres per pixel of the windows it was trained on)")
    if window_px is None:
        missing.append("--window PX (side of a window)")
    if missing:
        raise UsageError(f"model {name!r} needs {'; '.join(missing)}")


def _merged(
    name: str,
    found: WeightsContract | None,
    classes: Sequence[str] | None,
    spacing_um: float | None,
    window_or_default_px: int | None,
    window_px: int | None,
    positive: str | None,
) -> WeightsContract:
    """The file's contract with what was given put over it."""
    if found is None:
        if classes is None or spacing_um is None or window_or_default_px is None:
            raise AssertionError("missing parts are refused before")
        base = {"architecture": name, "window_px": window_or_default_px}
    else:
        base = found.model_dump()
        if spacing_um is not None and abs(spacing_um / found.spacing_um - 1) > 0.02:
            base["calibration"] = (
                f"{found.calibration}; used at {spacing_um:g} instead of {found.spacing_um:g} µm/px"
            )
            base["differences"] = ()
        if window_px is not None and window_px != found.window_px:
            base |= {"window_px": window_px, "differences": ()}
    if classes is not None:
        base["classes"] = tuple(classes)
        base["positive"] = None if found is None or found.positive not in classes else found.positive
    if spacing_um is not None:
        base["spacing_um"] = spacing_um
    if positive is not None:
        base["positive"] = positive
    try:
        contract = WeightsContract.model_validate(base)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"model {name!r}: {first['loc'][0]}: {first['msg']}, not {first['input']!r}"
        ) from error
    if len(set(contract.classes)) != len(contract.classes):
        raise UsageError(f"model {name!r}: class names repeat: {', '.join(contract.classes)}")
    if contract.positive is not None and contract.positive not in contract.classes:
        raise UsageError(
            f"model {name!r} has no class {contract.positive!r}; its classes: {', '.join(contract.classes)}"
        )
    return contract


def _check_classes(net: nn.Module, state: State, classes: tuple[str, ...], path: Path) -> None:
    """Say plainly when the only thing wrong with the weights is their number of classes."""
    own = net.state_dict()
    differ = {key for key in own if key in state and own[key].shape != state[key].shape}
    heads = {state[key].shape[0] for key in differ if own[key].shape[0] == len(classes) and state[key].ndim}
    last_only = all(own[key].shape[1:] == state[key].shape[1:] for key in differ)
    if differ and last_only and len(heads) == 1:
        raise WeightsError(
            f"{path}: these weights are for {heads.pop()} classes, but {len(classes)} are named: {', '.join(classes)}"
        )
