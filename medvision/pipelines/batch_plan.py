"""Which slides or images a batch is about: from a manifest, a list or a folder, each with its name from then on."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvision.core.errors import UsageError
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.work import Config, Work
from medvision.store.cohort import read_cohort
from medvision.store.files import safe_names
from medvision.store.manifest import MANIFEST
from medvision.store.names import Named, claim_names, enter_names, names_in
from medvision.store.pseudonyms import read_key
from medvision.store.records import as_text

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"')
"""What `repr` made of a text."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One slide or image of a batch. `number` counts from 1 in the order of the batch."""

    number: int
    item_id: str
    """As the manifest calls it, or by `ids_in` of its folder, or `list_ids`; its pseudonym where a key was given."""
    name: str
    """Its folder below the output folder."""
    path: Path
    spacing_um: float | None = None
    """Level-0 µm/px, where the manifest supplies it."""
    alias: str | None = None
    """What stands for its file name in everything that is written or said."""
    called: str | None = None
    """What its records call it, where that is not its file name or its alias."""

    @property
    def shown(self) -> str:
        """What a person is told of it."""
        return str(self.path) if self.alias is None else self.alias


def plan_batch(request: BatchRequest) -> list[BatchItem]:
    """The items of a batch, in the order in which they will be begun.

    `request.inputs` is a manifest (CSV, see `read_cohort`), a list of paths (`*.json`, or `*.txt` with one path per
    line) or a folder, which is searched with all below it but hidden folders and the output folder.

    Raises:
        UsageError: if that cannot be read or holds no item, or the pseudonym key cannot be had.
    """
    asked = request.inputs, request.patterns, request.work, request.out
    key = request.options.pseudonym_key
    if key is None:
        return _apart(_listed(*asked), request, names_in)
    names = read_key(key)
    try:
        items = _listed(*asked)
    except UsageError as error:
        # What is wrong with a table is told by its cells, and these may name patients.
        raise UsageError(f"{_QUOTED.sub('…', str(error))} (cells are not shown: pseudonyms)") from None
    planned = []
    for item in items:
        alias = names.of(item.item_id, request.work.item)
        planned.append(BatchItem(item.number, alias, alias, item.path, item.spacing_um, alias))
    return planned


def take_names(items: Sequence[BatchItem], request: BatchRequest) -> list[BatchItem]:
    """The items of a batch that begins: their names are theirs from now on, also in later runs into its output folder.

    Raises:
        StoreError: if the names cannot be read or written.
    """
    if request.options.pseudonym_key is None and not _is_list(request.inputs):
        enter_names(
            request.out,
            [Named(item.path, item.name, item.called or as_text(item.path.name)) for item in items],
        )
        return list(items)
    return _apart(items, request, claim_names)


def _apart(
    items: Sequence[BatchItem], request: BatchRequest, name: Callable[[Path, Sequence[Path]], list[Named]]
) -> list[BatchItem]:
    """Files of a list have no id of their own: they are called as a plain run into the output folder calls them."""
    if request.options.pseudonym_key is not None or not _is_list(request.inputs):
        return list(items)
    named = name(request.out, [item.path for item in items])
    ids = numbered([one.called for one in named])
    return [
        replace(item, item_id=item_id, name=one.name, called=one.called)
        for item, item_id, one in zip(items, ids, named, strict=True)
    ]


def config_for(item: BatchItem, request: BatchRequest) -> Config:
    """The parameters for one item, of which the manifest may supply a fact."""
    config = request.config
    return config if item.spacing_um is None else request.work.supply(config, item.spacing_um)


def identities(inputs: Path, patterns: Sequence[str] | None, work: Work[Any]) -> list[str]:
    """The id of each item of a manifest, list or folder: what a pseudonym is made from."""
    return [item.item_id for item in _listed(inputs, patterns or work.patterns, work, None)]


def ids_in(folder: Path, paths: Sequence[Path], work: Work[Any]) -> list[str]:
    """Ids of the files of a folder: of slides as `slide_ids`, of images the path, as their labels call them."""
    if work.one_file:
        return [as_text(path.relative_to(folder).as_posix()) for path in paths]
    return slide_ids(folder, paths)


def slide_ids(folder: Path, slides: Sequence[Path]) -> list[str]:
    """Names for slides below `folder`: the path without its ending, `/` written as `__`.

    The ending is kept where two would share a name, in any case of letters.
    """
    return _short([as_text(slide.relative_to(folder).as_posix()) for slide in slides], slides)


def _short(ids: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Ids without the ending that the path has, but where two would share one, and with `__` for `/`."""
    flat = [one.replace("/", "__") for one in ids]
    endings = [path.suffix for path in paths]
    names = [one.removesuffix(as_text(ending)) or one for one, ending in zip(flat, endings, strict=True)]
    owners = Counter(name.casefold() for name in names)
    return [
        name if owners[name.casefold()] == 1 else f"{name}-{ending.lstrip('.')}"
        for name, ending in zip(names, endings, strict=True)
    ]


def list_ids(slides: Sequence[Path]) -> list[str]:
    """Ids of files that were given one by one: the file's name, and its folder where several have it.

    A file that is given again is another one, with its number behind the name.
    """
    owners = Counter(slide.name for slide in {slide.absolute() for slide in slides})
    return numbered(
        [as_text(slide.name if owners[slide.name] == 1 else str(slide.absolute())) for slide in slides]
    )


def numbered(ids: Sequence[str]) -> list[str]:
    """`ids`, where one that is there again has its number behind it."""
    found: list[str] = []
    given: Counter[str] = Counter()
    for one in ids:
        given[one] += 1
        found.append(one if given[one] == 1 else f"{one} ({given[one]})")
    return found


def _listed(source: Path, patterns: Sequence[str], work: Work[Any], out: Path | None) -> list[BatchItem]:
    spacings: Sequence[float | None] = ()
    if _is_list(source):
        paths = read_list(source)
        ids, names = list_ids(paths), safe_names(paths)
    else:
        if source.is_dir():
            paths = _in_folder(source, patterns, work, out)
            ids = ids_in(source, paths, work)
        else:
            listed = read_cohort(source, all_there=False, item=work.item).slides
            ids, paths = [one.slide_id for one in listed], [one.path for one in listed]
            spacings = [one.spacing_um for one in listed]
        names = _names(_short(ids, paths) if work.one_file else ids, paths)
    return [
        BatchItem(number, *named, spacing_um, called=named[0] if work.one_file else None)
        for number, (named, spacing_um) in enumerate(
            zip(zip(ids, names, paths, strict=True), spacings or [None] * len(ids), strict=True), start=1
        )
    ]


def _is_list(source: Path) -> bool:
    return source.suffix.lower() in (".json", ".txt") and not source.is_dir()


def _in_folder(folder: Path, patterns: Sequence[str], work: Work[Any], out: Path | None) -> list[Path]:
    paths = work.gathered(folder, sorted(_matching(folder, patterns, out)))
    if not paths:
        raise UsageError(
            f"{folder}: holds no file that matches {', '.join(patterns)}; name others with --pattern"
        )
    return paths


def _names(slide_ids: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Folder names. `safe_names` takes the stem: with the file's ending, a dot in an id is not taken for one."""
    named = zip(slide_ids, paths, strict=True)
    return safe_names([Path(f"{slide_id}{path.suffix or '.slide'}") for slide_id, path in named])


def _matching(folder: Path, patterns: Sequence[str], out: Path | None) -> Iterator[Path]:
    """Files by pattern, upper and lower case alike; links to folders are not followed, which could lead in circles."""
    wanted = [pattern.lower() for pattern in patterns]
    outputs = None if out is None else out.resolve()
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_ours(Path(root) / name, outputs)]
        for name in files:
            if not name.startswith(".") and any(fnmatch.fnmatchcase(name.lower(), one) for one in wanted):
                yield Path(root) / name


def _is_ours(folder: Path, outputs: Path | None) -> bool:
    """Whether a folder is hidden, the output folder, or a result in it: heatmaps are TIFF files, too."""
    return folder.name.startswith(".") or folder.resolve() == outputs or (folder / MANIFEST).is_file()


def read_list(manifest: Path) -> list[Path]:
    """Paths from a file: a JSON list (`*.json`), or text with one path per line, `#` opening a comment line.

    A relative path is taken from the manifest's folder.

    Raises:
        UsageError: if the file cannot be read or names none.
    """
    try:
        text = manifest.read_text(encoding="utf-8")
        if manifest.suffix.lower() == ".json":
            entries = json.loads(text)
        else:
            lines = (line.strip() for line in text.splitlines())
            entries = [line for line in lines if line and not line.startswith("#")]
    except OSError as error:
        raise UsageError(f"{manifest}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{manifest} is not a readable list of files: {error}") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{manifest} names no file: expected a JSON list of paths, or one path per line")
    for number, entry in enumerate(entries, start=1):
        if not entry or "\0" in entry:
            raise UsageError(f"{manifest}: entry {number}, {entry!r}, is no path of a file")
    return [manifest.parent / entry for entry in entries]
