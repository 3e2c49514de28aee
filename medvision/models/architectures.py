"""The networks that can be trained or built here, each with its family, paper and licence.

`medvision models` lists them. An entry says what the network is for and which command trains it; the networks
themselves are in one file each, and nothing heavy is imported for the list.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvision.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network design. `home` is `module:object` of what builds it; `licence` is that of the code here."""

    family: str
    task: str
    paper: str
    home: str
    command: str
    licence: str = "Apache-2.0"


ARCHITECTURES: Registry[Architecture] = Registry("architecture")
