"""Which slides a batch is about: from a manifest, a list or a folder, each with the name that it has from then on."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvision.core.errors import UsageError
from medvision.pipelines.batch_config import BatchRequest
from medvision.sources.parts import one_of_each_slide
from medvision.store.cohort import read_cohort
from medvision.store.files import safe_names
from medvision.store.manifest import MANIFEST
from medvision.store.pseudonyms import read_key
from medvision.store.records import as_text

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"')
"""What `repr` made of a text."""


@dataclass(frozen=True, slots=True)
class BatchSlide:
    """One slide of a batch. `number` counts from 1 in the order of the batch."""

    number: int
    slide_id: str
    """As the manifest calls it, or by `slide_ids` of its folder, or `list_ids`; its pseudonym where a key was given."""
    name: str
    """Its folder below the output folder."""
    path: Path
    spacing_um: float | None = None
    """Level-0 µm/px, where the manifest supplies it."""
    alias: str | None = None
    """What stands for its file name in everything that is written or said."""

    @property
    def shown(self) -> str:
        """What a person is told of it."""
        return str(self.path) if self.alias is None else self.alias


def plan_batch(request: BatchRequest) -> list[BatchSlide]:
    """The slides of a batch, in the order in which they will be begun.

    `request.slides` is a manifest (CSV, see `read_cohort`), a list of paths (`*.json`, or `*.txt` with one path per
    line) or a folder, which is searched with all below it but hidden folders and the output folder.

    Raises:
        UsageError: if that cannot be read or holds no slide, or the pseudonym key cannot be had.
    """
    key = request.options.pseudonym_key
    if key is None:
        return _listed(request)
    names = read_key(key)
    try:
        slides = _listed(request)
    except UsageError as error:
        # What is wrong with a table is told by its cells, and these may name patients.
        raise UsageError(f"{_QUOTED.sub('…', str(error))} (cells are not shown: pseudonyms)") from None
    planned = []
    for slide in slides:
        alias = names.of(slide.slide_id)
        planned.append(BatchSlide(slide.number, alias, alias, slide.path, slide.spacing_um, alias))
    return planned


def identities(slides: Path, patterns: Sequence[str]) -> list[str]:
    """The `slide_id` of each slide of a manifest, list or folder: what a pseudonym is made from."""
    request = BatchRequest.model_validate({"slides": slides, "out": "-", "options": {"pattern": patterns}})
    return [slide.slide_id for slide in _listed(request)]


def slide_ids(folder: Path, slides: Sequence[Path]) -> list[str]:
    """Names for slides below `folder`: the path without its ending, `/` written as `__`.

    The ending is kept where two would share a name, in any case of letters.
    """
    parts = [slide.relative_to(folder) for slide in slides]
    names = [as_text("__".join(part.with_suffix("").parts)) for part in parts]
    owners = Counter(name.casefold() for name in names)
    return [
        name if owners[name.casefold()] == 1 else f"{name}-{part.suffix.lstrip('.')}"
        for name, part in zip(names, parts, strict=True)
    ]


def list_ids(slides: Sequence[Path]) -> list[str]:
    """Names for slides that were given one by one: the file's, and its folder where several have it.

    A slide that is given again is another one, with its number behind the name.
    """
    owners = Counter(slide.name for slide in {slide.absolute() for slide in slides})
    ids: list[str] = []
    given: Counter[str] = Counter()
    for slide in slides:
        one = as_text(slide.name if owners[slide.name] == 1 else str(slide.absolute()))
        given[one] += 1
        ids.append(one if given[one] == 1 else f"{one} ({given[one]})")
    return ids


def _listed(request: BatchRequest) -> list[BatchSlide]:
    source = request.slides
    if source.is_dir():
        return _in_folder(source, request)
    if source.suffix.lower() in (".json", ".txt"):
        paths = read_list(source)
        named = zip(list_ids(paths), safe_names(paths), paths, strict=True)
        return [
            BatchSlide(number, slide_id, name, path)
            for number, (slide_id, name, path) in enumerate(named, start=1)
        ]
    cohort = read_cohort(source, all_there=False)
    names = _names([slide.slide_id for slide in cohort.slides], [slide.path for slide in cohort.slides])
    return [
        BatchSlide(number, slide.slide_id, name, slide.path, slide.spacing_um)
        for number, (slide, name) in enumerate(zip(cohort.slides, names, strict=True), start=1)
    ]


def _in_folder(folder: Path, request: BatchRequest) -> list[BatchSlide]:
    patterns = request.options.pattern
    paths = one_of_each_slide(sorted(_matching(folder, patterns, request.out)))
    if not paths:
        raise UsageError(
            f"{folder}: holds no file that matches {', '.join(patterns)}; name others with --pattern"
        )
    ids = slide_ids(folder, paths)
    return [
        BatchSlide(number, slide_id, name, path)
        for number, (slide_id, name, path) in enumerate(
            zip(ids, _names(ids, paths), paths, strict=True), start=1
        )
    ]


def _names(slide_ids: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Folder names. `safe_names` takes the stem: with the file's ending, a dot in an id is not taken for one."""
    named = zip(slide_ids, paths, strict=True)
    return safe_names([Path(f"{slide_id}{path.suffix or '.slide'}") for slide_id, path in named])


def _matching(folder: Path, patterns: Sequence[str], out: Path) -> Iterator[Path]:
    """Files by pattern, upper and lower case alike; links to folders are not followed, which could lead in circles."""
    wanted = [pattern.lower() for pattern in patterns]
    outputs = out.resolve()
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_ours(Path(root) / name, outputs)]
        for name in files:
            if not name.startswith(".") and any(fnmatch.fnmatchcase(name.lower(), one) for one in wanted):
                yield Path(root) / name


def _is_ours(folder: Path, outputs: Path) -> bool:
    """Whether a folder is hidden, the output folder, or a result in it: heatmaps are TIFF files, too."""
    return folder.name.startswith(".") or folder.resolve() == outputs or (folder / MANIFEST).is_file()


def read_list(manifest: Path) -> list[Path]:
    """Slide paths from a file: a JSON list (`*.json`), or text with one path per line, `#` opening a comment line.

    A relative path is taken from the manifest's folder.

    Raises:
        UsageError: if the file cannot be read or names no slide.
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
        raise UsageError(f"{manifest} is not a readable list of slides: {error}") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{manifest} names no slide: expected a JSON list of paths, or one path per line")
    for number, entry in enumerate(entries, start=1):
        if not entry or "\0" in entry:
            raise UsageError(f"{manifest}: entry {number}, {entry!r}, is no path of a file")
    return [manifest.parent / entry for entry in entries]
