"""What goes wrong between the knife and the scanner: pen marks, folds, blur, bubbles, dust, unscanned borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvision.core.geometry import Box
from medvision.synthetic.noise import Image
from medvision.synthetic.recipe import SlideRecipe

if TYPE_CHECKING:
    from medvision.synthetic.render import _Lattice


@dataclass(frozen=True, slots=True)
class Marks:
    defocus: bool = False


def plan(recipe: SlideRecipe) -> Marks:
    return Marks()


def touches(marks: Marks, recipe: SlideRecipe, box: Box) -> bool:
    return False


def before_optics(marks: Marks, light: Image, lattice: _Lattice) -> None:
    pass


def optics(marks: Marks, light: Image, lattice: _Lattice) -> None:
    pass
