"""The taxonomy whose nodes a classifier's classes are, kept with its weights so that coarser classes can be summed."""

from __future__ import annotations

from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medvision.core.errors import UsageError
from medvision.core.taxonomy import INFERENCE_LEVELS, Coarser, Partition, Taxonomy, coarser, partition


class ClassTree(BaseModel):
    """A taxonomy and the partition of it that made the classes (Esteva et al., Nature 2017).

    `nodes` are pairs of a name and the node above it, the root, which has none, first. `images` are the training images
    labelled with each node itself; with `max_class_size` they determine the classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: tuple[tuple[str, str | None], ...] = Field(min_length=2)
    images: dict[str, int]
    max_class_size: int = Field(ge=1)

    @model_validator(mode="after")
    def _is_a_tree(self) -> ClassTree:
        seen: set[str] = set()
        for name, above in self.nodes:
            if name in seen or (above in seen) == (above is None) or (above is None and seen):
                raise ValueError(f"{name!r} has no place in a tree")
            seen.add(name)
        try:
            partition(Taxonomy.of(dict(self.nodes)), self.images, self.max_class_size)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The tree."""
        return Taxonomy.of(dict(self.nodes))

    @cached_property
    def partition(self) -> Partition:
        """The classes that follow from the images."""
        return partition(self.taxonomy, self.images, self.max_class_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the tree."""
        return tuple(one.name for one in self.partition.classes)

    @cached_property
    def levels(self) -> tuple[Coarser, ...]:
        """The levels that the classes add up to, each one that is coarser than the last and has two classes."""
        found: list[Coarser] = []
        for depth in reversed(INFERENCE_LEVELS):
            try:
                level = coarser(self.taxonomy, self.classes, depth)
            except UsageError:  # a class lies above the level, or the tree ends above it
                continue
            finer = found[-1].classes if found else self.classes
            if 2 <= len(level.classes) < len(finer):
                found.append(level)
        return tuple(reversed(found))
