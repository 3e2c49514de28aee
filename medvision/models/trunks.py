"""Trunks: networks that give a feature vector per window, for feature tables, MIL and CNN-LSTM.

Three ways to name one: a shipped model (its features before the head); a classifier of torchvision or timm with local
weights; a contract file (YAML or JSON) beside local weights, as for foundation models. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError, WeightsError
from medvision.core.geometry import Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.models.catalogue import DEFAULT_MODEL, MODELS, load_model
from medvision.models.classifiers.recipe import drop_auxiliaries
from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.weights import State, apply_weights, digest_state, read_weights

Pooling = Literal["model", "class token", "patch mean", "class token and patch mean"]

CONTRACT_SUFFIXES = (".yaml", ".yml", ".json")
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

INCEPTION_BLOCKS = ("Mixed_7a", "Mixed_7b", "Mixed_7c")
"""The last three blocks of torchvision's Inception-v3: 1280 + 2048 + 2048 channels, pooled to 5376 features."""


class TrunkContract(BaseModel):
    """What a contract file says of the weights beside it.

    `options` go to `timm.create_model`; a name under `mlp_layer`, `act_layer` or `norm_layer` is looked up in
    `timm.layers`. `blocks` names modules whose maps are pooled over the window and joined; without it, `pooling` says
    how the network's tokens become a vector ("model": its own pooling before the classifier). Without `mean` and `std`
    the normalisation is the one that its library publishes for the network; a file may leave out ImageNet's only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    weights: str | None = None
    window_px: int = Field(gt=0)
    spacing_um: float = Field(gt=0)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pooling: Pooling = "model"
    blocks: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    version: str = ""
    licence: str = "not stated"
    paper: str = ""


@dataclass(frozen=True, slots=True)
class TrunkSpec:
    """How a trunk is asked for. `name` is a model's, or the path of a contract file; the rest is for models by name."""

    name: str = DEFAULT_MODEL
    weights: Path | None = None
    window_px: int | None = None
    spacing_um: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    blocks: tuple[str, ...] = ()


def load_trunk(spec: TrunkSpec) -> PatchModel:
    """The trunk of `spec`, ready to run: n windows in, n vectors out (`output == "vector"`).

    Raises:
        UnknownNameError: for a name that no library knows.
        UsageError: if something is missing, with what to pass, or the network gives no vectors.
        WeightsError: if the weights are absent, unsafe, unreadable or of another network.
    """
    path = Path(spec.name)
    if path.suffix.lower() in CONTRACT_SUFFIXES:
        contract, weights = read_contract(path)
        _refuse_guess(path, contract)
        return _from_contract(path.stem, contract, weights if spec.weights is None else spec.weights)
    if spec.name in MODELS and not spec.blocks:
        return _shipped(spec)
    missing = [
        words
        for value, words in (
            (spec.weights, "--weights FILE (local; nothing is downloaded)"),
            (spec.spacing_um, "--spacing UM (micrometres per pixel of the windows it was trained on)"),
        )
        if value is None
    ]
    if missing or spec.weights is None or spec.spacing_um is None:
        raise UsageError(
            f"trunk {spec.name!r} needs {'; '.join(missing)}; or name a contract file that says it all"
        )
    contract = TrunkContract(
        architecture=spec.name,
        window_px=spec.window_px or _own_window(spec.name),
        spacing_um=spec.spacing_um,
        mean=spec.mean,
        std=spec.std,
        blocks=spec.blocks,
    )
    return _from_contract(spec.name, contract, spec.weights)


def read_contract(path: Path) -> tuple[TrunkContract, Path]:
    """The contract in a YAML or JSON file, and the weights it is of: those it names, or the file of its own name.

    Raises:
        UsageError: if it cannot be read, or has a wrong or unknown field, which is named.
        WeightsError: if the weights are not there.
    """
    try:
        contract = TrunkContract.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: neither YAML nor JSON ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc']) or 'file'}: {e['msg']}" for e in error.errors()]
        raise UsageError(f"{path}: {'; '.join(lines)}") from error
    beside = [path.with_suffix(suffix) for suffix in _WEIGHTS_SUFFIXES]
    named = [path.parent / contract.weights] if contract.weights is not None else beside
    found = [candidate for candidate in named if candidate.is_file()]
    if not found:
        raise WeightsError(f"{path}: its weights are not there: {' or '.join(str(p) for p in named[:3])}")
    return contract, found[0]


def _refuse_guess(path: Path, contract: TrunkContract) -> None:
    """Weights beside a file need not be the published ones; foundation models often have ImageNet's normalisation."""
    from medvision.models.classifiers.foreign import find

    own = find(contract.architecture)[0]
    if (contract.mean is None or contract.std is None) and (own.mean, own.std) != (
        IMAGENET_MEAN,
        IMAGENET_STD,
    ):
        raise UsageError(
            f"{path}: mean and std are missing, and cannot be guessed: {contract.architecture} is published with mean "
            f"{list(own.mean)} and std {list(own.std)}, many others with {list(IMAGENET_MEAN)} and {list(IMAGENET_STD)}"
        )


def _shipped(spec: TrunkSpec) -> PatchModel:
    """The features of a catalogue model before its head."""
    model = load_model(spec.name, weights=spec.weights, spacing_um=spec.spacing_um, window_px=spec.window_px)
    if not hasattr(model.net, "features"):
        raise UsageError(f"model {spec.name!r} has no features before its head; choose another trunk")
    contract = TrunkContract(
        architecture=spec.name,
        window_px=model.window[0],
        spacing_um=model.spacing.mean if model.spacing is not None else 1.0,
        mean=_three(model.normalisation.mean),
        std=_three(model.normalisation.std),
        precisions=tuple("bfloat16" if p == "bfloat16" else "float32" for p in model.precisions),
        version=model.version,
    )
    return _as_trunk(spec.name, _Features(model.net), contract)


def _from_contract(name: str, contract: TrunkContract, weights: Path) -> PatchModel:
    from medvision.models.classifiers.foreign import find

    own = find(contract.architecture)[0]
    contract = contract.model_copy(update={"mean": contract.mean or own.mean, "std": contract.std or own.std})
    net, head = _build(contract)
    if contract.blocks:
        whole: nn.Module = _Blocks(net, contract.blocks)
    else:
        whole = _Whole(net) if contract.pooling == "model" else _Tokens(net, contract.pooling)
    state, _ = read_weights(weights)
    apply_weights(net, _without_head(head, state, weights), weights)
    return _as_trunk(name, whole, contract)


def _build(contract: TrunkContract) -> tuple[nn.Module, tuple[str, ...]]:
    """The network without its classifier, and what the names of the classifier's tensors start with."""
    from medvision.models.classifiers.foreign import find

    recipe = find(contract.architecture)[0]
    if recipe.library == "timm":
        import timm

        plain = contract.architecture.rpartition("/")[2]
        options = _timm_options(contract.options)
        net: nn.Module = timm.create_model(plain, pretrained=False, num_classes=0, **options)
        named = net.pretrained_cfg.get("classifier") or ()  # type: ignore[operator,union-attr]
        return net, (named,) if isinstance(named, str) else tuple(named)
    if contract.options or contract.pooling != "model":
        raise UsageError(f"{contract.architecture}: options and pooling are for networks of timm")
    return _headless(recipe.build(2), contract.architecture)


def _headless(net: nn.Module, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A torchvision classifier with its last linear layer replaced by the identity, and what was taken away."""
    gone = drop_auxiliaries(net)
    linear = [path for path, part in net.named_modules() if isinstance(part, nn.Linear)]
    if not linear or linear[-1].partition(".")[0] not in ("fc", "classifier", "head", "heads"):
        raise UsageError(f"{name}: its classifier does not end in a linear layer; take the network of timm")
    net.set_submodule(linear[-1], nn.Identity())
    return net, (*gone, linear[-1])


def _timm_options(options: Mapping[str, Any]) -> dict[str, Any]:
    import timm.layers

    made = dict(options)
    for key in ("mlp_layer", "act_layer", "norm_layer"):
        if isinstance(made.get(key), str):
            layer = getattr(timm.layers, made[key], getattr(nn, made[key], None))
            if layer is None:
                raise UsageError(f"options: {key}: timm.layers has no {made[key]!r}")
            made[key] = layer
    return made


def _without_head(head: tuple[str, ...], state: State, path: Path) -> State:
    """The state without the classifier's tensors."""
    kept = {
        name: value for name, value in state.items() if not any(name.startswith(f"{part}.") for part in head)
    }
    if not kept:
        raise WeightsError(f"{path}: holds nothing but a classifier")
    return kept


def _as_trunk(name: str, net: nn.Module, contract: TrunkContract) -> PatchModel:
    said = contract.model_dump(mode="json", exclude={"weights", "licence", "paper"})
    model = PatchModel(
        name=name,
        net=net.eval(),
        window=(contract.window_px, contract.window_px),
        spacing=Spacing((contract.spacing_um, contract.spacing_um), "um", "supplied"),
        normalisation=Normalisation(contract.mean or IMAGENET_MEAN, contract.std or IMAGENET_STD),
        output="vector",
        classes=(),
        digest=digest_json(["trunk", said, digest_state(net.state_dict())]),
        activation=_identity,
        precisions=contract.precisions,
        version=contract.version,
        calibration="",
    )
    dimension_of(model)
    return model


def dimension_of(trunk: PatchModel) -> int:
    """Length of the trunk's vectors, found by computing one window.

    Raises:
        UsageError: if the network gives no vector for a window.
    """
    window = torch.zeros((1, *trunk.window, len(trunk.normalisation.mean)), dtype=torch.uint8)
    device = next((p.device for p in trunk.net.parameters()), torch.device("cpu"))
    try:
        with torch.inference_mode():
            found = trunk(window.to(device))
    except (RuntimeError, AssertionError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"trunk {trunk.name!r} cannot take a window of {trunk.window[0]} px ({said})"
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or found.shape[0] != 1:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise UsageError(f"trunk {trunk.name!r} gives {shape} for one window, not a vector (1, d)")
    return found.shape[1]


def _own_window(name: str) -> int:
    from medvision.models.classifiers.foreign import find

    window = find(name)[0].window_px
    if window is None:
        raise UsageError(f"trunk {name!r} needs --window PX (side of a window)")
    return window


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third


def _identity(found: Any) -> Any:
    return found


class _Features(nn.Module):
    """What a shipped classifier computes before its head."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Vectors `(n, d)`."""
        found: torch.Tensor = self.net.features(windows)  # type: ignore[operator]
        return found


class _Whole(nn.Module):
    """A network without classifier, pooled as it does itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Vectors `(n, d)`."""
        found: torch.Tensor = self.net(windows)
        return found.flatten(1)


class _Tokens(nn.Module):
    """The tokens of a timm transformer's last layer, pooled: class token, mean of the patches, or both joined."""

    def __init__(self, net: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        if not hasattr(net, "num_prefix_tokens"):
            raise UsageError(f"pooling {pooling!r} is for transformers of timm; take pooling: model")
        self.net, self.pooling = net, pooling
        self.prefix = int(net.num_prefix_tokens)  # type: ignore[arg-type]
        if pooling != "patch mean" and self.prefix == 0:
            raise UsageError(f"pooling {pooling!r}: this transformer has no class token")

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Vectors `(n, d)`; register tokens are left out."""
        tokens: torch.Tensor = self.net.forward_features(windows)  # type: ignore[operator]
        mean = tokens[:, self.prefix :].mean(dim=1)
        if self.pooling == "patch mean":
            return mean
        return tokens[:, 0] if self.pooling == "class token" else torch.cat([tokens[:, 0], mean], dim=1)


class _Blocks(nn.Module):
    """Means over the window of the maps of several modules, joined in the order in which they are named."""

    def __init__(self, net: nn.Module, blocks: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        known = dict(net.named_modules())
        unknown = [name for name in blocks if name not in known]
        if unknown:
            near = ", ".join(name for name in known if name and "." not in name)
            raise UsageError(f"the trunk has no block {unknown[0]!r}; its parts: {near}")
        self.blocks = tuple(blocks)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Vectors `(n, sum of the blocks' channels)`."""
        maps: dict[str, torch.Tensor] = {}
        hooks = [
            self.net.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: maps.__setitem__(name, output)
            )
            for name in self.blocks
        ]
        try:
            self.net(windows)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([maps[name].flatten(2).mean(dim=2) for name in self.blocks], dim=1)
