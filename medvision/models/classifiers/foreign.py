"""Classifiers of torchvision and timm by name, built without weights and without touching the network."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from medvision.core.errors import UnknownNameError
from medvision.models.classifiers.recipe import Recipe

HALVES = (0.5, 0.5, 0.5)
"""Mean and deviation that bring 0..1 to -1..1."""


def find(name: str) -> list[Recipe]:
    """The classifiers called `name`, torchvision's before timm's; `timm/...` and `torchvision/...` choose one.

    Raises:
        UnknownNameError: if neither has it, with the names closest to it.
    """
    library, _, plain = name.rpartition("/")
    makers = {"torchvision": _torchvision, "timm": _timm}
    if library and library not in makers:
        raise UnknownNameError(f"no model library is called {library!r}; known: {', '.join(makers)}")
    found = [recipe for key, make in makers.items() if library in ("", key) and (recipe := make(plain))]
    if not found:
        raise UnknownNameError(f"no model is called {name!r}; {_suggestions(plain)}")
    return found


def _torchvision(name: str) -> Recipe | None:
    import torchvision.models as zoo

    if name not in zoo.list_models(module=zoo):
        return None
    window = 299 if name == "inception_v3" else 224
    if name not in ("googlenet", "inception_v3"):
        return Recipe("torchvision", lambda n: zoo.get_model(name, weights=None, num_classes=n), window)
    # These two draw slow initial weights, and warn about it, unless told not to. Their published weights are of inputs
    # from -1 to 1: torchvision itself turns ImageNet's normalisation into that (`transform_input`).
    return Recipe(
        "torchvision",
        lambda n: zoo.get_model(name, weights=None, num_classes=n, init_weights=False),
        window,
        HALVES,
        HALVES,
    )


def _timm(name: str) -> Recipe | None:
    import timm

    # Only names of timm's own registry: "hf-hub:..." and the like would reach for the network.
    if not timm.is_model(name):
        return None
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return Recipe("timm", lambda n: timm.create_model(name, pretrained=False, num_classes=n), 224)
    return Recipe(
        "timm",
        lambda n: timm.create_model(name, pretrained=False, num_classes=n),
        int(config.input_size[-1]),
        _three(config.mean),
        _three(config.std),
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _suggestions(name: str) -> str:
    import timm
    import torchvision.models as zoo

    from medvision.models.architectures import list_architectures
    from medvision.models.catalogue import MODELS

    known = dict.fromkeys(
        [*MODELS, *list_architectures(), *zoo.list_models(module=zoo), *timm.list_models()]
    )  # some have one name in both
    close = difflib.get_close_matches(name, known, n=4)
    near = f"close to it: {', '.join(close)}; " if close else ""
    return f"{near}shipped: {', '.join(MODELS)}; otherwise any classifier of torchvision or timm with local weights"
