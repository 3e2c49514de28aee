"""The manifest of a published entry: what it was made from, and what each of its files must be."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from pydantic import Field, JsonValue, ValidationError

from medvision.core.digest import digest_file, digest_json
from medvision.core.errors import StoreError
from medvision.store.files import atomic_write
from medvision.store.provenance import code_digest, software_versions
from medvision.store.records import Record

MANIFEST = "manifest.json"
RUN_MANIFEST = "manifest-run.json"

_R = TypeVar("_R", bound=Record)


class ResultSpec(Record):
    """Everything that a result depends on. Two equal specs have the same bytes as their result."""

    kind: str
    """Which job made it: "analyze", "features", ..."""
    name: str
    """What was analysed, as its result calls it: the slide's file name."""
    source: str
    """Digest of the source's content."""
    model: str
    """Digest of weights and contract; empty where no model took part."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Every setting that can change a byte of the result."""
    code: str = Field(default_factory=code_digest)
    software: dict[str, str] = Field(default_factory=software_versions)

    @property
    def key(self) -> str:
        """Digest of every field."""
        return digest_json(self.model_dump(mode="json"))

    @property
    def digests(self) -> dict[str, str]:
        """What the result was made from, as `SlideOutcome.digests` holds it."""
        return {
            "slide": self.source,
            "model": self.model,
            "config": digest_json(self.config),
            "code": self.code,
            "result": self.key,
        }


class Manifest(Record):
    """Contents of `manifest.json`: the spec, its key, and the SHA-256 of each file by relative path.

    Equal runs write equal manifests: the files that name a run are in the `RunManifest`.
    """

    key: str
    spec: ResultSpec
    files: dict[str, str]


class RunManifest(Record):
    """Contents of `manifest-run.json`: the SHA-256 of each file that differs between equal runs."""

    files: dict[str, str]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of the entry at `folder`, or None where there is none that can be read."""
    return _read(folder / MANIFEST, Manifest)


def verify(folder: Path, *, except_for: Collection[str] = ()) -> tuple[str, ...]:
    """What is wrong with a published entry, one sentence each; nothing if it is whole and unaltered.

    Every listed file is read and its digest compared with the recorded one, but for files of the run in `except_for`.
    Files that the manifests do not list are not looked at: a person may leave notes beside a result.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return (f"{folder} has no readable {MANIFEST}",)
    problems = []
    if manifest.key != manifest.spec.key:
        problems.append(f"{folder / MANIFEST}: the key is not that of the spec")
    listed = dict(manifest.files)
    run = _read(folder / RUN_MANIFEST, RunManifest)
    if run is None:
        problems.append(f"{folder} has no readable {RUN_MANIFEST}")
    else:
        listed |= {name: digest for name, digest in run.files.items() if name not in except_for}
    for name, digest in sorted(listed.items()):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            problems.append(f"{path} is missing")
        elif digest_file(path) != digest:
            problems.append(f"{path} was altered after it was written")
    return tuple(problems)


def mismatch(folder: Path, spec: ResultSpec) -> str:
    """Why the entry at `folder` cannot stand for `spec`, or an empty text if it can."""
    if not folder.is_dir():
        return f"{folder} does not exist"
    manifest = read_manifest(folder)
    if manifest is not None and manifest.spec != spec:
        old, new = manifest.spec.model_dump(), spec.model_dump()
        changed = ", ".join(field for field in new if old[field] != new[field])
        return f"{folder} was made from another {changed}"
    return "; ".join(verify(folder))


def seal(folder: Path, spec: ResultSpec, of_run: Collection[str] = ()) -> None:
    """Write the manifests of all files now in `folder`; those in `of_run` go to the run's manifest."""
    digests = {name: digest_file(folder / name) for name in files_of(folder)}
    stable = {name: digest for name, digest in digests.items() if name not in of_run}
    run = {name: digest for name, digest in digests.items() if name in of_run}
    _write(folder / RUN_MANIFEST, RunManifest(files=run))
    _write(folder / MANIFEST, Manifest(key=spec.key, spec=spec, files=stable))


def record_changes(folder: Path) -> None:
    """Record the present digests of the run's files, after they were written anew.

    Raises:
        StoreError: if a file of `manifest.json` is no longer what it was.
    """
    run = _read(folder / RUN_MANIFEST, RunManifest) or RunManifest(files={})
    present = {name: digest_file(folder / name) for name in run.files if (folder / name).is_file()}
    _write(folder / RUN_MANIFEST, RunManifest(files=present))
    problems = verify(folder)
    if problems:
        raise StoreError(f"{folder} is not a whole result any more: {'; '.join(problems)}")


def files_of(folder: Path) -> list[str]:
    """Relative paths of all files below `folder`, links included, without the manifests, in order."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in found)
    return sorted(name for name in names if name not in (MANIFEST, RUN_MANIFEST))


def unlisted(folder: Path) -> list[str]:
    """Files in `folder` that no manifest lists; all of them where there is no manifest."""
    manifest, run = read_manifest(folder), _read(folder / RUN_MANIFEST, RunManifest)
    listed = {*(manifest.files if manifest else {}), *(run.files if run else {})}
    return [name for name in files_of(folder) if name not in listed]


def _read(path: Path, kind: type[_R]) -> _R | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, record: Record) -> None:
    atomic_write(path, record.model_dump_json(indent=1).encode() + b"\n")
