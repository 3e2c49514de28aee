"""Schedules as files: what is to be run, and when. One JSON file each, in `HOME/schedules`.

The files are the truth; Prefect's deployments are made from them (see `flows.deployments`), so that a lost database
loses no schedule. Prefect is imported only to judge a cron expression.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, field_validator

from flows.home import prepare
from medvision.core.errors import StoreError, UnknownNameError, UsageError
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.config import Positive
from medvision.store.files import atomic_write
from medvision.store.records import Record

SETTLE_S = 60.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class Cron(Record):
    """At set times, in the five fields of cron, by the clocks of a timezone."""

    kind: Literal["cron"] = "cron"
    cron: str
    timezone: str

    def words(self, _items: str) -> str:
        """As a person reads it."""
        return f"{self.cron} ({self.timezone})"


class Watch(Record):
    """When files arrive in the folder and have not changed for `settle_s` seconds."""

    kind: Literal["watch"] = "watch"
    settle_s: Positive = SETTLE_S

    def words(self, items: str) -> str:
        """As a person reads it."""
        return f"{items} that arrive (the same for {self.settle_s:g} s)"


class Schedule(Record):
    """One schedule. All paths are absolute, as it is run by a process that was started somewhere else."""

    name: str
    request: BatchRequest
    when: Annotated[Cron | Watch, Field(discriminator="kind")]
    pool: str | None = None
    """Work pool of Prefect whose workers run it; None: `medvision schedule serve` does."""
    paused: bool = False
    created_utc: str

    def words(self) -> str:
        """When it runs, as a person reads it."""
        return self.when.words(self.request.work.items)

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no name: letters, digits, hyphens and underscores, at most 63")
        return value


def new_schedule(name: str, request: BatchRequest, when: Cron | Watch, pool: str | None = None) -> Schedule:
    """A schedule from what a person gave; paths are made absolute.

    Raises:
        UsageError: if the name has other characters than a file name may have anywhere, the slides or images are
            absent, a watched folder is no folder, the cron expression is none, or the timezone is unknown.
    """
    absolute = request.with_absolute_paths()
    if not absolute.inputs.exists():
        raise UsageError(f"{absolute.inputs}: no such manifest or folder")
    if isinstance(when, Watch) and not absolute.inputs.is_dir():
        raise UsageError(f"{absolute.inputs} is not a folder: only a folder can be watched")
    if isinstance(when, Cron):
        check_cron(when)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        return Schedule(name=name, request=absolute, when=when, pool=pool, created_utc=created)
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def local_timezone() -> str:
    """Name of the timezone of this machine's clock, such as Europe/Oslo; UTC where it says none."""
    import tzlocal

    try:
        name: str = tzlocal.get_localzone_name() or "UTC"
        ZoneInfo(name)
    except (LookupError, ValueError):
        return "UTC"
    return name


def check_cron(when: Cron) -> None:
    """Refuse what Prefect would not take.

    Raises:
        UsageError: naming the expression or the timezone.
    """
    try:
        ZoneInfo(when.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"--timezone {when.timezone}: no such timezone; expected a name such as Europe/Oslo or UTC"
        ) from error
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=when.cron, timezone=when.timezone)
    except ValueError as error:
        raise UsageError(
            f"--cron {when.cron!r}: not a cron expression; expected minute, hour, day of the month, month and day of "
            "the week, such as '0 20 * * *' for every evening at eight"
        ) from error


def folder(home: Path) -> Path:
    """Where the schedules of `home` lie."""
    return home / "schedules"


def names(home: Path) -> list[str]:
    """Names of all schedules, sorted."""
    return sorted(path.stem for path in folder(home).glob("*.json") if _NAME.fullmatch(path.stem))


def load_all(home: Path) -> list[Schedule]:
    """All schedules, by name.

    Raises:
        StoreError: if a file among them cannot be read, naming it.
    """
    return [load(home, name) for name in names(home)]


def load(home: Path, name: str) -> Schedule:
    """The schedule `name`.

    Raises:
        UnknownNameError: if there is none, with the names that there are.
        StoreError: if its file cannot be read.
    """
    there = names(home)
    if name not in there:
        raise UnknownNameError(f"no schedule {name!r} in {home}; schedules: {', '.join(there) or 'none'}")
    path = _path(home, name)
    try:
        return Schedule.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StoreError(f"{path}: not a schedule: {' '.join(str(error).split())}") from error


def create(home: Path, schedule: Schedule) -> None:
    """Keep a new schedule.

    Raises:
        UsageError: if there is one of that name already, whatever its case.
    """
    prepare(home)
    for name in names(home):
        if name.casefold() == schedule.name.casefold():
            raise UsageError(
                f"there is a schedule {name!r} already; remove it first: medvision schedule remove {name}"
            )
    folder(home).mkdir(exist_ok=True)
    save(home, schedule)


def save(home: Path, schedule: Schedule) -> None:
    """Write a schedule in place of what was there."""
    atomic_write(_path(home, schedule.name), schedule.model_dump_json(indent=2).encode())


def remove(home: Path, name: str) -> None:
    """Forget the schedule `name`; results and what a watch has taken stay."""
    load(home, name)
    _path(home, name).unlink()


def _path(home: Path, name: str) -> Path:
    return folder(home) / f"{name}.json"
