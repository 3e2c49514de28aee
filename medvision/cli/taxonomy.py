"""`medvision taxonomy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medvision.cli.console import console, print_note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.tree import Tree

    from medvision.core.taxonomy import Partition, Taxonomy


_MAX_SIZE = 1000


def taxonomy(file: Path, /, *, counts: Path | None = None, max_size: int | None = None) -> int:
    """Check a taxonomy, print its tree, and say which training classes follow from the numbers of images.

    Example: medvision taxonomy configs/skin-taxonomy.yaml --counts counts.csv --max-size 1000

    A node whose subtree has fewer images than the largest class size becomes one training class; any other is descended
    into (Esteva et al., Nature 2017).

    Parameters
    ----------
    file
        The taxonomy in YAML: `name`, and `tree` with names within names.
    counts
        CSV with the columns label,images; or with a row per image that has a column label, such as a table of truth.
    max_size
        Number of images that a training class stays below, unless it is a single leaf. Default: 1000.
    """
    from medvision.core.errors import UsageError
    from medvision.core.taxonomy import partition, read_taxonomy

    if counts is None and max_size is not None:
        raise UsageError(f"--max-size {max_size} says nothing without the numbers of images: --counts FILE")
    max_size = _MAX_SIZE if max_size is None else max_size
    read = read_taxonomy(file)
    if counts is None:
        console.print(_tree(read))
        return 0
    images = _images(counts, read)
    found = partition(read, images, max_size)
    console.print(_tree(read, images, found))
    console.print(f"training classes: {len(found.classes)}, each a leaf or of fewer than {max_size:,} images")
    for one in found.classes:
        parts = f"  ({', '.join(one.members[1:])})" if len(one.members) > 1 else ""
        print_note(f"{one.images:8,}  {one.name}{parts}")
    for name, count in found.unplaced.items():
        print_note(
            f"note: {count:,} images of {name!r} are in no class: the node is split, and they say no part"
        )
    if found.empty:
        print_note(f"note: no image, and so no class: {', '.join(found.empty)}")
    return 0


def _images(path: Path, read: Taxonomy) -> dict[str, int]:
    """Images by label, added up over the rows of a table."""
    from medvision.core.errors import UsageError
    from medvision.store.tables import read_table

    table = read_table(path, ("label",), ("images",))
    images: dict[str, int] = {}
    for line, row in table.rows:
        label, number = read.find(row["label"], f"{path}, line {line}"), row.get("images", "1")
        if not number.isdecimal():
            raise UsageError(f"{path}, line {line}: images {number!r} is no whole number from 0")
        if "images" in row and label in images:
            raise UsageError(f"{path}, line {line}: label {label!r} for the second time")
        images[label] = images.get(label, 0) + int(number)
    return images


def _tree(read: Taxonomy, images: Mapping[str, int] | None = None, found: Partition | None = None) -> Tree:
    """The tree with numbers of images, its training classes in bold."""
    from rich.markup import escape
    from rich.tree import Tree

    from medvision.report.format import visible

    classes = {one.name for one in found.classes} if found else set()

    def text(name: str) -> str:
        shown = escape(visible(name))
        if images is None:
            return shown
        count = sum(images.get(node, 0) for node in read.below(name))
        return f"[bold green]{shown}  {count:,}[/]" if name in classes else f"{shown}  [dim]{count:,}[/]"

    def grow(tree: Tree, name: str) -> Tree:
        for child in read.children[name]:
            grow(tree.add(text(child)), child)
        return tree

    return grow(Tree(text(read.root)), read.root)
