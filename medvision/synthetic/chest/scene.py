"""Everything of a scan that is computed once, before any voxel is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from medvision.synthetic.chest import body as trunk
from medvision.synthetic.chest import findings, skeleton, vessels
from medvision.synthetic.chest.findings import Finding
from medvision.synthetic.chest.frame import Frame
from medvision.synthetic.chest.recipe import ChestRecipe


@dataclass(frozen=True)
class Scene:
    """A recipe's patient, with bones, vessels and findings placed."""

    frame: Frame
    who: trunk.Patient
    body: trunk.Body
    bones: skeleton.Skeleton
    pipes: vessels.Pipes
    nodules: tuple[Finding, ...]
    others: tuple[Finding, ...]

    @cached_property
    def everything(self) -> tuple[Finding, ...]:
        """Nodules and what is none."""
        return self.nodules + self.others


def build(recipe: ChestRecipe) -> Scene:
    """The scene of a recipe.

    Raises:
        UsageError: if a nodule cannot be placed.
    """
    frame = Frame(recipe)
    who = trunk.patient(frame)
    body = trunk.build(frame, who)
    bones = skeleton.build(frame, who, body)
    pipes = vessels.build(frame, who, body)
    nodules, others = findings.plan(frame, who, body, pipes.blood)
    return Scene(frame, who, body, bones, pipes, tuple(nodules), tuple(others))
