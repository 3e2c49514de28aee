"""A classifier to be trained: of any name, for any classes, from random weights, a local file or its library's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from medvision.core.errors import UsageError, WeightsError
from medvision.models.classifiers.foreign import find
from medvision.models.classifiers.recipe import Recipe, drop_auxiliaries
from medvision.models.classifiers.renamed import renamed
from medvision.models.classifiers.slim_resnet import SlimResNet
from medvision.models.weights import State, digest_state, read_weights

SLIM = "slim-resnet"
LIBRARY = "library"
"""Stands for the weights that torchvision or timm publish under the network's name."""


@dataclass(frozen=True, eq=False)
class Start:
    """A network to be trained. `head` names its modules that give the classes; `loaded` counts tensors that were taken.

    `said` is where they are from, in words; `digest` is of all the tensors there, empty for random weights.
    """

    net: nn.Module
    recipe: Recipe
    head: tuple[str, ...]
    loaded: int
    said: str
    digest: str = ""


def recipe_of(name: str) -> Recipe:
    """How the network called `name` is built; ours, torchvision's or timm's.

    Raises:
        UnknownNameError: if none has it.
    """
    if name == SLIM:
        return Recipe("medvision", lambda classes: SlimResNet(classes), 128)
    return find(name)[0]


def build(name: str, classes: int) -> nn.Module:
    """The network for `classes`, without weights and without auxiliary classifiers, needless after pretraining."""
    net = recipe_of(name).build(classes)
    drop_auxiliaries(net)
    return net


def begin(
    name: str,
    classes: int | Sequence[str],
    weights: Path | str | None,
    download_to: Path | None,
) -> Start:
    """A network to train.

    From a classifier of this project the trunk is taken with its normalisation, and the head too where its classes are
    the same in the same order. From any other weights the head is left out.

    Args:
        classes: their names, or their number.
        weights: a local file, `LIBRARY`, or None for random weights.
        download_to: folder for what the library fetches; None if nothing may be fetched.

    Raises:
        UnknownNameError: if no library has the network.
        UsageError: if weights would have to be fetched and may not, or cannot.
        WeightsError: if the weights are unsafe, unreadable, or of another network.
    """
    recipe = recipe_of(name)
    net = build(name, classes if isinstance(classes, int) else len(classes))
    head = head_of(net)
    if recipe.library != "medvision":
        _begin_head(net, head)
    if weights is None:
        return Start(net, recipe, head, 0, "random weights")
    contract: Mapping[str, Any] = {}
    if weights == LIBRARY:
        state, where = _fetched(name, recipe, download_to), Path(f"<{recipe.library}>")
        said = f"{recipe.library}'s own weights of {name}"
    else:
        where = Path(weights)
        state, contract = read_weights(where)
        _require_same_network(name, contract, where)
        recipe = _normalised_alike(recipe, contract)
        said = f"weights of {where.name}{_described(contract)}"
    digest = digest_state(state)
    state = renamed(state, net.state_dict())
    same = not isinstance(classes, int) and list(contract.get("classes", ())) == list(classes)
    loaded = load_tensors(net, state, () if same else head, where)
    return Start(net, recipe, head, loaded, said + (", head included" if same else ", head left out"), digest)


def check_start(name: str, weights: Path | str | None, *, download: bool) -> Recipe:
    """What `begin` would refuse without a look at the weights, told before the images are read; returns the recipe.

    Raises:
        UnknownNameError: if no library has the network.
        UsageError: if weights would have to be fetched and there are none, or may not be.
        WeightsError: if their file is not there.
    """
    recipe = recipe_of(name)
    if weights is not None and str(weights) == LIBRARY:
        _require_fetchable(name, recipe, download)
    elif weights is not None and not Path(weights).is_file():
        raise WeightsError(f"{weights}: no such weights file")
    return recipe


def head_of(net: nn.Module) -> tuple[str, ...]:
    """Name of the last linear (or 1 x 1 convolution) layer, whose outputs are the classes.

    Raises:
        UsageError: if there is none.
    """
    last = [name for name, part in net.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    own = getattr(net, "pretrained_cfg", None)
    named = own.get("classifier") if isinstance(own, dict) else None
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    if not last:
        raise UsageError(f"{type(net).__name__} has no layer that gives classes")
    return (last[-1],)


def _begin_head(net: nn.Module, head: tuple[str, ...]) -> None:
    """Draw the weights of the new head by its inputs, as PyTorch does (U(-k, k), k = 1 / sqrt(inputs)).

    torchvision's and timm's EfficientNets, MobileNets and their kind draw by the number of classes (1 / sqrt(classes)),
    which is meant for a thousand: with four, logits begin so large that few steps only serve to shrink them.
    """
    for name in head:
        part = net.get_submodule(name)
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.reset_parameters()


def _require_same_network(name: str, contract: Mapping[str, Any], where: Path) -> None:
    """A contract that names another network is refused for that, not for the first tensor that does not fit."""
    own = contract.get("architecture")
    plain = name.rpartition("/")[2]
    if own is not None and str(own).rpartition("/")[2] != plain:
        raise WeightsError(
            f"{where}: these weights are of {own}, and the network to train is {name}; say `trunk: {own}`, or name "
            f"weights of {name}"
        )


def _normalised_alike(recipe: Recipe, contract: Mapping[str, Any]) -> Recipe:
    """The recipe with the normalisation with which the weights learnt."""

    def three(key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        red, green, blue = contract.get(key, default)
        return float(red), float(green), float(blue)

    return replace(recipe, mean=three("mean", recipe.mean), std=three("std", recipe.std))


def _described(contract: Mapping[str, Any]) -> str:
    """What a contract says of its weights, to be read after the file's name."""
    if not contract:
        return ""
    classes = ", ".join(map(str, contract.get("classes", ())))
    return f" ({contract.get('architecture', 'a network')}{f' of {classes}' if classes else ''})"


def load_tensors(net: nn.Module, state: State, head: tuple[str, ...], where: Path) -> int:
    """Load all but `head` (and what only a training from scratch needs); returns how many tensors."""
    own = net.state_dict()
    wanted = {name for name in own if not _within(name, head)}
    missing = sorted(
        name for name in wanted if name not in state and not name.endswith("num_batches_tracked")
    )
    if missing:
        raise WeightsError(
            f"{where}: these weights are not for this network; {len(missing)} of its {len(wanted)} tensors are "
            f"missing, such as {missing[0]}"
        )
    other = sorted(name for name in wanted if name in state and state[name].shape != own[name].shape)
    if other:
        raise WeightsError(
            f"{where}: {other[0]} has the shape {tuple(state[other[0]].shape)}, and the network wants "
            f"{tuple(own[other[0]].shape)}"
        )
    taken = {name: state[name] for name in wanted if name in state}
    net.load_state_dict(taken, strict=False)
    return len(taken)


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _require_fetchable(name: str, recipe: Recipe, download: bool) -> None:
    if recipe.library == "medvision":
        raise UsageError(
            f"{name} has no weights of a library; name a file: `weights: FILE`, or leave them out"
        )
    if not download:
        raise UsageError(
            f"weights: library: {recipe.library}'s weights of {name} would be fetched from the internet; allow it with "
            "--download, or name a local file: `weights: FILE`"
        )


def _fetched(name: str, recipe: Recipe, folder: Path | None) -> State:
    _require_fetchable(name, recipe, folder is not None)
    assert folder is not None, "else it may not be fetched"
    folder.mkdir(parents=True, exist_ok=True)
    plain = name.rpartition("/")[2]
    fetch: Callable[[], State] = (
        (lambda: _of_torchvision(plain, folder))
        if recipe.library == "torchvision"
        else (lambda: _of_timm(plain, folder))
    )
    try:
        return fetch()
    except (URLError, OSError) as error:
        said = str(getattr(error, "reason", error)).strip().partition("\n")[0]
        raise UsageError(
            f"weights: library: {recipe.library}'s weights of {name} could not be fetched ({said}); on a machine "
            "without internet fetch them elsewhere and name the file: `weights: FILE`"
        ) from error


def _of_torchvision(name: str, folder: Path) -> State:
    from torch.hub import load_state_dict_from_url
    from torchvision.models import get_model_weights

    best: Any = get_model_weights(name).DEFAULT
    found: State = load_state_dict_from_url(
        best.url, model_dir=str(folder), check_hash=True, progress=False, weights_only=True
    )
    return found


def _of_timm(name: str, folder: Path) -> State:
    import timm

    net: nn.Module = timm.create_model(name, pretrained=True, cache_dir=folder)
    state: dict[str, torch.Tensor] = net.state_dict()
    return state
