"""The ledger's tables, and how its file is opened: append-only, in SQLite's write-ahead log, brought to the disk."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from medvision.core.errors import StoreError
from medvision.store.store import ResultStore

SCHEMA_VERSION = 1
APPLICATION_ID = 0x6D766C67
"""Marks the file as a ledger of this package, for `file` and for us: "mvlg"."""
BUSY_S = 30.0
"""How long a writer waits for another one's transaction, which takes milliseconds."""

_TABLES = """
CREATE TABLE run (
  run_id TEXT PRIMARY KEY, started_utc TEXT NOT NULL, operator TEXT NOT NULL, command TEXT NOT NULL,
  slides INTEGER NOT NULL, config TEXT NOT NULL CHECK (json_valid(config)), config_digest TEXT NOT NULL,
  code TEXT NOT NULL, software TEXT NOT NULL CHECK (json_valid(software)), runner TEXT NOT NULL, host TEXT NOT NULL
) STRICT;
CREATE TABLE planned (
  run_id TEXT NOT NULL REFERENCES run, slide_id TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL,
  PRIMARY KEY (run_id, slide_id)
) STRICT;
CREATE TABLE attempt (
  id INTEGER PRIMARY KEY, attempt_id TEXT NOT NULL UNIQUE, run_id TEXT NOT NULL, slide_id TEXT NOT NULL,
  number INTEGER NOT NULL, began_utc TEXT NOT NULL, worker TEXT NOT NULL,
  FOREIGN KEY (run_id, slide_id) REFERENCES planned
) STRICT;
CREATE TABLE attempt_end (
  id INTEGER PRIMARY KEY, attempt_id TEXT NOT NULL REFERENCES attempt (attempt_id), ended_utc TEXT NOT NULL,
  verdict TEXT NOT NULL, outcome TEXT CHECK (outcome IS NULL OR json_valid(outcome)),
  reason TEXT AS (json_extract(outcome, '$.reason')),
  probability REAL AS (json_extract(outcome, '$.probability')),
  label TEXT AS (json_extract(outcome, '$.label')),
  regions INTEGER AS (json_extract(outcome, '$.regions')),
  windows INTEGER AS (json_extract(outcome, '$.windows')),
  unread INTEGER AS (json_extract(outcome, '$.unread')),
  seconds REAL AS (json_extract(outcome, '$.seconds')),
  batch_size INTEGER AS (json_extract(outcome, '$.batch_size')),
  device TEXT AS (json_extract(outcome, '$.device')),
  slide_digest TEXT AS (json_extract(outcome, '$.digests.slide')),
  model_digest TEXT AS (json_extract(outcome, '$.digests.model')),
  config_digest TEXT AS (json_extract(outcome, '$.digests.config')),
  code_digest TEXT AS (json_extract(outcome, '$.digests.code')),
  result_key TEXT AS (json_extract(outcome, '$.digests.result'))
) STRICT;
CREATE TABLE measure (
  run_id TEXT NOT NULL, slide_id TEXT NOT NULL, name TEXT NOT NULL, value REAL, unit TEXT NOT NULL,
  ok INTEGER NOT NULL, bound TEXT NOT NULL, meaning TEXT NOT NULL,
  PRIMARY KEY (run_id, slide_id, name), FOREIGN KEY (run_id, slide_id) REFERENCES planned
) STRICT;
CREATE TABLE run_end (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run, finished_utc TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('finished', 'interrupted')), counts TEXT NOT NULL CHECK (json_valid(counts))
) STRICT;
CREATE INDEX planned_name ON planned (name);
CREATE INDEX attempt_slide ON attempt (run_id, slide_id);
CREATE INDEX attempt_end_attempt ON attempt_end (attempt_id);
CREATE INDEX attempt_end_slide ON attempt_end (slide_digest);
CREATE INDEX run_end_run ON run_end (run_id);
CREATE VIEW slide_result AS
  SELECT p.run_id, r.started_utc, p.slide_id, p.name, p.position,
    (SELECT count(*) FROM attempt WHERE run_id = p.run_id AND slide_id = p.slide_id) AS attempts,
    a.attempt_id, e.ended_utc,
    coalesce(e.verdict, CASE WHEN a.id IS NULL THEN 'planned' ELSE 'begun' END) AS verdict,
    e.reason, e.probability, e.label, e.regions, e.windows, e.unread, e.seconds, e.batch_size, e.device,
    e.slide_digest, e.model_digest, e.config_digest, e.code_digest, e.result_key, e.outcome, e.id AS end_id
  FROM planned AS p JOIN run AS r ON r.run_id = p.run_id
  LEFT JOIN attempt AS a
    ON a.id = (SELECT max(id) FROM attempt WHERE run_id = p.run_id AND slide_id = p.slide_id)
  LEFT JOIN attempt_end AS e ON e.id = (SELECT max(id) FROM attempt_end WHERE attempt_id = a.attempt_id)
"""

# REPLACE deletes without asking the trigger on DELETE, so that a row of a key that is there is refused before.
_KEYS = {
    "run": (("run_id",),),
    "planned": (("run_id", "slide_id"),),
    "attempt": (("id",), ("attempt_id",)),
    "attempt_end": (("id",),),
    "measure": (("run_id", "slide_id", "name"),),
    "run_end": (("id",),),
}


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the ledger at `path`; make it where it is absent, unless `read_only`.

    Raises:
        StoreError: if it is absent (read only), cannot be written, or is damaged, no ledger, or a newer one.
    """
    with explained(path):
        if read_only:
            return _checked(path, _connect_reader(path))
        if path.is_symlink():
            raise StoreError(f"{path} is a symbolic link, and links are not followed in an output folder")
        # Two processes that make the file at once, or one that died over it: whoever has the lock makes it whole.
        with ResultStore(path.parent).lock(path.name):
            connection = _open(path, "rwc")
            try:
                if _is_new(connection):
                    _create(connection)
            except BaseException:
                connection.close()
                raise
        return _checked(path, connection)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors, and records of no known form, into a `StoreError` that names ledger and fault."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake of ours
    except sqlite3.DatabaseError as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        reason = _REASONS.get(code, "the ledger refused it")
        raise StoreError(f"{path}: {reason} (SQLite: {error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"{path}: holds a record that this program did not write ({error.title}: {field or 'all of it'}: "
            f"{first['msg']})"
        ) from error


_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full; nothing was written of the last record",
    sqlite3.SQLITE_IOERR: "the disk failed or is full; nothing was written of the last record",
    sqlite3.SQLITE_READONLY: "the ledger cannot be written to here",
    sqlite3.SQLITE_CANTOPEN: "the ledger cannot be opened here; does its folder exist, and may it be written to?",
    sqlite3.SQLITE_PERM: "the ledger may not be opened",
    sqlite3.SQLITE_BUSY: f"another process held the ledger for more than {BUSY_S:g} s",
    sqlite3.SQLITE_LOCKED: f"another process held the ledger for more than {BUSY_S:g} s",
    sqlite3.SQLITE_CORRUPT: "the ledger is damaged; put a backup of it in its place, or move it away",
    sqlite3.SQLITE_NOTADB: "is no ledger but another kind of file",
}


def _connect_reader(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreError(f"{path}: there is no ledger; `medvision batch` writes one into its output folder")
    try:
        return _open(path, "ro")
    except sqlite3.OperationalError as error:
        # Where nothing can be written SQLite cannot make the index of its log. Without a log none is needed.
        log = path.with_name(f"{path.name}-wal")
        if (error.sqlite_errorcode & 0xFF) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        if log.exists() and log.stat().st_size:
            raise StoreError(
                f"{path}: a log of changes ({log.name}) lies beside it, which cannot be read where nothing can be "
                "written; copy both to another folder"
            ) from error
        return _open(path, "ro&immutable=1")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(str(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(
        address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _is_new(connection: sqlite3.Connection) -> bool:
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return objects == 0 and _pragma(connection, "application_id") == 0


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in (*_TABLES.split(";"), *_triggers()):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _triggers() -> Iterator[str]:
    for table, keys in _KEYS.items():
        words = "RAISE(ABORT, 'the ledger is append-only: a row is never changed or removed')"
        for event in ("UPDATE", "DELETE"):
            yield f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} BEGIN SELECT {words}; END"
        same = " OR ".join("(" + " AND ".join(f"{one} = NEW.{one}" for one in key) + ")" for key in keys)
        yield (
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) BEGIN SELECT {words}; END"
        )


def _checked(path: Path, connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        mark, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        if mark != APPLICATION_ID:
            raise StoreError(f"{path}: is no ledger but another program's database")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path}: was written by a newer version of this program (schema {version}, known: {SCHEMA_VERSION})"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
