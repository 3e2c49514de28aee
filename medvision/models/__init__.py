"""Models by name: `load_model`, `list_models`."""

from medvision.models.catalogue import (
    DEFAULT_MODEL,
    MODELS,
    CatalogueEntry,
    LoadedModel,
    ModelRow,
    list_models,
    load_model,
    read_model,
)

__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "CatalogueEntry",
    "LoadedModel",
    "ModelRow",
    "list_models",
    "load_model",
    "read_model",
]
