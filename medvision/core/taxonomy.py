"""A tree of disease names: training classes of a bounded size from it, and coarser classes by summing descendants.

The partition and the sums are those of Esteva et al., Nature 2017;542:115 (Extended Data Table 1, Figure 5).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from medvision.core.errors import UsageError
from medvision.core.names import choices, find_name

INFERENCE_LEVELS = (1, 2)
"""The levels that classes are summed to: in the taxonomy of Esteva 2017 those of the 3-way and the 9-way figures."""

_FIELDS = ("name", "about", "tree")


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """A tree. `parents` maps each node to the one above it, in the file's order; the root, first, has None."""

    parents: Mapping[str, str | None]
    children: Mapping[str, tuple[str, ...]]
    about: str = ""

    @classmethod
    def of(cls, parents: Mapping[str, str | None], about: str = "") -> Taxonomy:
        """The tree in which each node, the root first, lies under the one that `parents` names."""
        children: dict[str, list[str]] = {name: [] for name in parents}
        for name, above in parents.items():
            if above is not None:
                children[above].append(name)
        return cls(parents, {name: tuple(below) for name, below in children.items()}, about)

    @property
    def root(self) -> str:
        """The node that holds all others."""
        return next(iter(self.parents))

    def check(self, name: str) -> None:
        """Raise `UsageError`, with the names there are, unless `name` is a node."""
        if name not in self.parents:
            raise UsageError(f"taxonomy {self.root!r} has no node {name!r}; {choices(name, self.parents)}")

    def find(self, name: str, where: str) -> str:
        """The node of that name, whatever its case. See `find_name`, whose error it raises."""
        return find_name(name, self.parents, where)

    def path(self, name: str) -> tuple[str, ...]:
        """From the root to `name`, both included."""
        self.check(name)
        above = self.parents[name]
        return (name,) if above is None else (*self.path(above), name)

    def below(self, name: str) -> Iterator[str]:
        """`name` and all its descendants, in the file's order."""
        self.check(name)
        yield name
        for child in self.children[name]:
            yield from self.below(child)

    def level(self, depth: int) -> tuple[str, ...]:
        """The nodes at `depth` under the root (which is 0), and the leaves that end above it: they part all leaves.

        Raises:
            UsageError: if `depth` is below 0 or no node lies so deep.
        """
        depths = {name: len(self.path(name)) - 1 for name in self.parents}
        if not 0 <= depth <= max(depths.values()):
            raise UsageError(
                f"taxonomy {self.root!r} has the levels 0 to {max(depths.values())}; there is no {depth}"
            )
        return tuple(n for n, d in depths.items() if d == depth or (d < depth and not self.children[n]))

    def holder(self, name: str, classes: Sequence[str]) -> str | None:
        """The one of `classes` that is `name` or lies above it, the nearest; None where there is none."""
        return next((node for node in reversed(self.path(name)) if node in classes), None)


@dataclass(frozen=True, slots=True)
class TrainingClass:
    """A node whose subtree is learnt as one class: its `members` (itself first) and their images together."""

    name: str
    members: tuple[str, ...]
    images: int


@dataclass(frozen=True, eq=False)
class Partition:
    """Training classes, and what belongs to none.

    `unplaced` are images labelled with a node that was split, and so with none of its children; `empty` are subtrees
    without any image, from which nothing can be learnt.
    """

    classes: tuple[TrainingClass, ...]
    unplaced: Mapping[str, int]
    empty: tuple[str, ...]


def partition(taxonomy: Taxonomy, counts: Mapping[str, int], max_size: int) -> Partition:
    """Training classes by the disease-partitioning algorithm of Esteva 2017: a node whose subtree has fewer images than
    `max_size` becomes one class; any other is descended into.

    Two cases that the algorithm as printed passes over are made explicit: a leaf with `max_size` images or more is a
    class by itself (there, it would be dropped), and images of a node that is split are listed.

    Args:
        taxonomy: the tree.
        counts: images labelled with each node itself; nodes that are not named have none.
        max_size: the number of images that a class of several nodes stays below.

    Raises:
        UsageError: if a name is no node, a count is negative, there is no image, or `max_size` is below 1.
    """
    if max_size < 1:
        raise UsageError(f"a largest class size is at least 1; got {max_size}")
    for name, count in counts.items():
        taxonomy.check(name)
        if count < 0:
            raise UsageError(f"{name!r} cannot have {count} images")
    if not sum(counts.values()):
        raise UsageError(f"taxonomy {taxonomy.root!r}: no node has an image")
    classes: list[TrainingClass] = []
    unplaced: dict[str, int] = {}
    empty: list[str] = []

    def descend(node: str) -> None:
        members = tuple(taxonomy.below(node))
        images = sum(counts.get(member, 0) for member in members)
        if images == 0:
            empty.append(node)
        elif images < max_size or not taxonomy.children[node]:
            classes.append(TrainingClass(node, members, images))
        else:
            if counts.get(node):
                unplaced[node] = counts[node]
            for child in taxonomy.children[node]:
                descend(child)

    descend(taxonomy.root)
    return Partition(tuple(classes), unplaced, tuple(empty))


def sum_descendants(
    taxonomy: Taxonomy, classes: Sequence[str], nodes: Sequence[str]
) -> npt.NDArray[np.float64]:
    """The matrix (classes, nodes) of 0 and 1 that makes `probabilities @ matrix` the probabilities of `nodes`.

    P(node) is the sum over the training classes at or below it. A node without any has a column of zeros.

    Raises:
        UsageError: if a name is no node, a class lies within another, or a node within a class, whose probability says
            nothing about its parts.
    """
    for name in classes:
        above = taxonomy.path(name)[:-1]
        if (holder := next((node for node in above if node in classes), None)) is not None:
            raise UsageError(f"classes overlap: {name!r} lies within {holder!r}")
    for node in nodes:
        if (holder := taxonomy.holder(node, classes)) not in (None, node):
            raise UsageError(f"{node!r} is a part of the class {holder!r}, which is not told apart further")
    within = [set(taxonomy.below(node)) for node in nodes]
    return np.array([[name in members for members in within] for name in classes], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Coarser:
    """Coarser classes that finer ones add up to: the nodes at a level of a taxonomy.

    `matrix` (finer, coarser) of 0 and 1 is that of `sum_descendants`. `absent` are nodes of the level that are left
    out, as no finer class and no image lies in them.
    """

    depth: int
    classes: tuple[str, ...]
    matrix: npt.NDArray[np.float64]
    absent: tuple[str, ...]

    @property
    def title(self) -> str:
        """How it is called, such as 9-way."""
        return f"{len(self.classes)}-way"

    def sum(self, probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Probabilities `(n, coarser)` from those of the finer classes `(n, finer)`."""
        return probabilities @ self.matrix


def coarser(taxonomy: Taxonomy, classes: Sequence[str], depth: int, held: Collection[str] = ()) -> Coarser:
    """The classes at a level of the taxonomy that `classes` add up to. What trains, classifies and scores sums by it.

    Args:
        taxonomy: the tree.
        classes: nodes of the tree, none within another.
        depth: of the level under the root, which is 0.
        held: nodes of the level that stay although no class lies in them, because an image does.

    Raises:
        UsageError: as `Taxonomy.level` and `sum_descendants`.
    """
    nodes = taxonomy.level(depth)
    matrix = sum_descendants(taxonomy, classes, nodes)
    kept = [i for i, node in enumerate(nodes) if matrix[:, i].any() or node in held]
    stay = tuple(nodes[i] for i in kept)
    return Coarser(depth, stay, matrix[:, kept], tuple(node for node in nodes if node not in stay))


def read_taxonomy(path: Path) -> Taxonomy:
    """A taxonomy from a YAML file with the fields `name` (of the root), `tree`, and optionally `about`.

    A tree is a mapping of names to trees; a leaf has no value (`nevus:`), and a list holds leaves only.

    Raises:
        UsageError: if the file cannot be read, has another field, names a node twice or within itself (a cycle, which
            an alias of YAML can make), or holds something that is no name.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if (
        not isinstance(content, dict)
        or not set(content) <= set(_FIELDS)
        or not {"name", "tree"} <= set(content)
    ):
        given = ", ".join(map(str, content)) if isinstance(content, dict) else "none"
        raise UsageError(f"{path}: a taxonomy has the fields name, tree and, if wanted, about; got {given}")
    parents: dict[str, str | None] = {}
    children: dict[str, tuple[str, ...]] = {}

    def add(name: object, tree: object, above: tuple[str, ...]) -> None:
        if not isinstance(name, str) or not name.strip():
            raise UsageError(
                f"{path}: {name!r} under {' > '.join(above)!r} is no name; quote it if it is meant as one"
            )
        if name in above:
            raise UsageError(f"{path}: a cycle: {' > '.join((*above, name))}")
        if name in parents:
            places = f"under {parents[name]!r} and under {above[-1]!r}"
            raise UsageError(f"{path}: {name!r} is named twice, {places}")
        parents[name] = above[-1] if above else None
        items = dict.fromkeys(tree) if isinstance(tree, list) and _plain(tree) else tree
        if isinstance(tree, list) and isinstance(items, dict) and len(items) < len(tree):
            raise UsageError(f"{path}: a name comes twice in the list under {name!r}")
        if items is not None and not isinstance(items, dict):
            raise UsageError(f"{path}: under {name!r}: neither names nor a list of names but {items!r}")
        children[name] = tuple(items or ())
        for child, subtree in (items or {}).items():
            add(child, subtree, (*above, name))

    add(content["name"], content["tree"], ())
    if len(parents) == 1:
        raise UsageError(f"{path}: the tree holds no node")
    return Taxonomy(parents, children, str(content.get("about", "")).strip())


class _Loader(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error; plain YAML would let the last one win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.YAMLError(f"{', '.join(twice)} named twice in one place")
        return super().construct_mapping(node, deep)


def _plain(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)
