"""The networks that can be trained or built here, each with its family, paper and licence.

`medvision models` lists them. An entry says what the network is for and which command trains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from pydantic import BaseModel

from medvision.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network design. `home` is `module:object` of what builds it; `licence` is that of the code here.

    `command` trains it; empty where none does yet. `parameters` is how many it learns; None where that depends on what
    it is trained on. `usual` is the contract it has where nobody asks for another; None where a table of features says.
    """

    family: str
    task: str
    paper: str
    home: str
    command: str = ""
    licence: str = "Apache-2.0"
    parameters: int | None = None
    usual: BaseModel | None = None


ARCHITECTURES: Registry[Architecture] = Registry("architecture")


def list_architectures() -> dict[str, Architecture]:
    """All of them by name, those of one family together."""
    for family in ("mil", "nodules", "segmentation"):
        import_module(f"medvision.models.{family}")  # which registers its own
    return dict(sorted(ARCHITECTURES.items(), key=lambda item: item[1].family))
