"""`medvision schedule`: batches at set times, or when slides or images arrive."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from medvision.cli.batch import ImageParameters, ScanParameters, chosen
from medvision.cli.console import console, print_note, table
from medvision.cli.server import DEFAULT_HOME, Home
from medvision.core.errors import UsageError
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.segment_config import SegmentConfig
from medvision.pipelines.work import CASES, IMAGES, SCANS, SLIDES, Config, Work
from medvision.training.config_file import read_yaml_config, validated

if TYPE_CHECKING:
    from flows.deployments import Seen
    from flows.schedules import Cron, Schedule, Watch

app = App(
    name="schedule",
    help=(
        "Run batches at set times, or when slides or images arrive in a folder. "
        'Example: medvision schedule create nightly slides --out results --cron "0 20 * * *"'
    ),
)


@app.command
def create(
    name: str,
    slides: Path,
    /,
    *,
    out: Path,
    cron: str | None = None,
    timezone: str | None = None,
    watch: bool = False,
    settle: float | None = None,
    config: Path | None = None,
    pool: str | None = None,
    home: Home = DEFAULT_HOME,
    analyze: Annotated[AnalyzeConfig, Parameter(name="*")] = AnalyzeConfig(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Make a schedule: at set times by --cron, or --watch for slides that arrive.

    Example: medvision schedule create arrivals /scanner --out results --watch --settle 60

    Parameters
    ----------
    name
        Letters, digits, hyphens and underscores. It is shown by Prefect: no name of a patient.
    slides
        A manifest (slide_id,path,...) or a folder.
    out
        Output folder.
    cron
        Minute, hour, day of the month, month, day of the week: "0 20 * * *" is every evening at eight.
    timezone
        Whose clocks --cron goes by, such as Europe/Oslo. Default: this machine's.
    watch
        Take each slide that arrives in the folder, once it is whole.
    settle
        Seconds that a slide's files must have stayed the same to count as whole. Default: 60.
    config
        YAML file of the analysis' parameters, by the names of the options; an option given here comes first.
    pool
        Work pool of Prefect whose workers run the batches, in place of 'medvision schedule serve'.
    home
        The server's folder.
    """
    request = _request(slides, out, config, analyze, options, SLIDES)
    return _create(name, request, _when(cron, timezone, watch, settle), pool, home)


@app.command
def create_images(
    name: str,
    images: Path,
    /,
    *,
    out: Path,
    cron: str | None = None,
    timezone: str | None = None,
    watch: bool = False,
    settle: float | None = None,
    config: Path | None = None,
    pool: str | None = None,
    home: Home = DEFAULT_HOME,
    classify: Annotated[ImageParameters, Parameter(name="*")] = ImageParameters(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Make a schedule that classifies images: at set times by --cron, or --watch for images that arrive.

    Example: medvision schedule create-images oct /scanner --out results --model oct.safetensors --watch

    Parameters
    ----------
    name
        Letters, digits, hyphens and underscores. It is shown by Prefect: no name of a patient.
    images
        A manifest (image,path,...) or a folder.
    out
        Output folder.
    cron
        Minute, hour, day of the month, month, day of the week: "0 20 * * *" is every evening at eight.
    timezone
        Whose clocks --cron goes by, such as Europe/Oslo. Default: this machine's.
    watch
        Take each image that arrives in the folder, once it is whole.
    settle
        Seconds that a file must have stayed the same to count as whole. Default: 60.
    config
        YAML file of the parameters of images, by the names of the options; an option given here comes first.
    pool
        Work pool of Prefect whose workers run the batches, in place of 'medvision schedule serve'.
    home
        The server's folder.
    """
    request = _request(images, out, config, classify, options, IMAGES)
    return _create(name, request, _when(cron, timezone, watch, settle), pool, home)


@app.command
def create_scans(
    name: str,
    scans: Path,
    /,
    *,
    out: Path,
    cron: str,
    timezone: str | None = None,
    config: Path | None = None,
    pool: str | None = None,
    home: Home = DEFAULT_HOME,
    nodules: Annotated[ScanParameters, Parameter(name="*")] = ScanParameters(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Make a schedule that searches chest CT scans for nodules, at the times of --cron.

    A series arrives file by file, so that nobody can tell when it is whole: folders of scans are not watched.

    Example: medvision schedule create-scans ct /pacs --out results --detector detector.safetensors --cron "0 22 * * *"

    Parameters
    ----------
    name
        Letters, digits, hyphens and underscores. It is shown by Prefect: no name of a patient.
    scans
        A manifest (scan,path,...) or a folder.
    out
        Output folder.
    cron
        Minute, hour, day of the month, month, day of the week: "0 20 * * *" is every evening at eight.
    timezone
        Whose clocks --cron goes by, such as Europe/Oslo. Default: this machine's.
    config
        YAML file of the parameters of scans, by the names of the options; an option given here comes first.
    pool
        Work pool of Prefect whose workers run the batches, in place of 'medvision schedule serve'.
    home
        The server's folder.
    """
    request = _request(scans, out, config, nodules, options, SCANS)
    return _create(name, request, _timed(cron, timezone, None), pool, home)


@app.command
def create_segment(
    name: str,
    cases: Path,
    /,
    *,
    out: Path,
    cron: str,
    timezone: str | None = None,
    config: Path | None = None,
    pool: str | None = None,
    home: Home = DEFAULT_HOME,
    segment: Annotated[SegmentConfig, Parameter(name="*")] = SegmentConfig(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Make a schedule that segments images, slides or volumes, at the times of --cron.

    Example: medvision schedule create-segment liver /pacs --out results --model liver --cron "0 22 * * *"

    Parameters
    ----------
    name
        Letters, digits, hyphens and underscores. It is shown by Prefect: no name of a patient.
    cases
        A manifest (case,path,...) or a folder.
    out
        Output folder.
    cron
        Minute, hour, day of the month, month, day of the week: "0 20 * * *" is every evening at eight.
    timezone
        Whose clocks --cron goes by, such as Europe/Oslo. Default: this machine's.
    config
        YAML file of the parameters of a segmentation, by the names of the options; an option given here comes first.
    pool
        Work pool of Prefect whose workers run the batches, in place of 'medvision schedule serve'.
    home
        The server's folder.
    """
    request = _request(cases, out, config, segment, options, CASES)
    return _create(name, request, _timed(cron, timezone, None), pool, home)


def _request(
    inputs: Path, out: Path, config: Path | None, given: Config, options: BatchOptions, work: Work[Any]
) -> BatchRequest:
    """The batch, with the file's parameters and those given on the command line in their place."""
    told = chosen(given)
    parameters = (
        validated(told, work.config) if config is None else read_yaml_config(config, work.config, **told)
    )
    fields = {work.inputs: inputs, "out": out, work.parameters: parameters, "options": options}
    return validated(fields, BatchRequest)


def _when(cron: str | None, timezone: str | None, watch: bool, settle: float | None) -> Cron | Watch:
    if (cron is not None) == watch:
        raise UsageError("a schedule has either --cron 'MINUTE HOUR DAY MONTH WEEKDAY' or --watch")
    return _watched(timezone, settle) if watch else _timed(cron or "", timezone, settle)


def _create(name: str, request: BatchRequest, when: Cron | Watch, pool: str | None, home: Path) -> int:
    from flows.home import prepare, set_environment

    set_environment(prepare(home))

    from flows import schedules

    made = schedules.new_schedule(name, request, when, pool)
    schedules.create(home, made)
    try:
        registered = _tell(home, made)
    except UsageError:
        schedules.remove(home, name)
        raise
    print_note(f"schedule {name}: {made.words()}; {made.request.inputs} to {made.request.out}")
    if not registered:
        print_note("no server answers now: 'medvision schedule serve' will register it")
    return 0


@app.command(name="list")
def list_all(*, home: Home = DEFAULT_HOME) -> int:
    """List the schedules: when, which slides or images, the next run and how the last one ended.

    Example: medvision schedule list

    Parameters
    ----------
    home
        The server's folder.
    """
    from flows import schedules
    from flows.home import connected

    found = schedules.load_all(home)
    if not found:
        print_note(f"no schedule in {home}")
        return 0
    seen: dict[str, Seen | None] = {}
    problem = ""
    try:
        with connected(home):
            from flows import deployments

            seen = {schedule.name: deployments.seen(schedule) for schedule in found}
    except UsageError as error:
        problem = str(error)
    columns = ("name", "when", "state", "next run", "last run", "ended")
    console.print(
        table("Schedules", columns, [_row(schedule, seen.get(schedule.name)) for schedule in found])
    )
    for schedule in found:
        print_note(f"{schedule.name}: {schedule.request.inputs} to {schedule.request.out}{_by(schedule)}")
    if problem:
        print_note(f"times are not known: {problem}")
    return 0


@app.command
def pause(name: str, /, *, home: Home = DEFAULT_HOME) -> int:
    """Start no run of a schedule until it is resumed; a run under way goes on.

    Example: medvision schedule pause nightly

    Parameters
    ----------
    name
        The schedule.
    home
        The server's folder.
    """
    return _set_paused(home, name, True)


@app.command
def resume(name: str, /, *, home: Home = DEFAULT_HOME) -> int:
    """Go on with a schedule that was paused.

    Example: medvision schedule resume nightly

    Parameters
    ----------
    name
        The schedule.
    home
        The server's folder.
    """
    return _set_paused(home, name, False)


@app.command
def run_now(name: str, /, *, home: Home = DEFAULT_HOME) -> int:
    """Run a schedule's batch over all that it is of as soon as there is room, paused or not.

    Example: medvision schedule run-now nightly

    Parameters
    ----------
    name
        The schedule.
    home
        The server's folder.
    """
    from flows import schedules
    from flows.home import connected

    schedule = schedules.load(home, name)
    with connected(home):
        from flows import deployments

        run = deployments.submit(
            schedule, schedule.request, deployments.run_name(name, datetime.now().astimezone())
        )
    who = f"a worker of pool {schedule.pool}" if schedule.pool else "'medvision schedule serve'"
    print_note(f"{run.name}: waits for {who}")
    return 0


@app.command
def remove(name: str, /, *, home: Home = DEFAULT_HOME) -> int:
    """Remove a schedule. Its results stay.

    Example: medvision schedule remove nightly

    Parameters
    ----------
    name
        The schedule.
    home
        The server's folder.
    """
    from flows import schedules
    from flows.home import connected

    schedule = schedules.load(home, name)
    schedules.remove(home, name)
    try:
        with connected(home):
            from flows import deployments

            deployments.unregister(schedule)
    except UsageError:
        kept = f"{schedule.request.work.flow}/{name}"
        print_note(f"no server answers now: it keeps the deployment {kept} until that is deleted there")
    print_note(f"schedule {name} removed")
    return 0


@app.command
def serve(*, home: Home = DEFAULT_HOME) -> int:
    """Run what is due, one batch at a time, and look at the watched folders, until Ctrl-C or SIGTERM.

    Schedules that are made meanwhile are taken up. A batch that is stopped goes on where it was when it is next run.
    Example: medvision schedule serve --home ./medvision-home

    Parameters
    ----------
    home
        The server's folder.
    """
    from flows.serve import serve as serve_schedules

    serve_schedules(home, _said)
    print_note("no longer serving")
    return 0


def _said(line: str) -> None:
    print_note(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {line}")


def _watched(timezone: str | None, settle: float | None) -> Watch:
    from flows.schedules import SETTLE_S, Watch

    if timezone is not None:
        raise UsageError(f"--timezone {timezone} is for --cron, not for --watch")
    if settle is not None and not 0 < settle < math.inf:
        raise UsageError(f"--settle {settle:g}: expected a number of seconds above 0")
    return Watch(settle_s=SETTLE_S if settle is None else settle)


def _timed(cron: str, timezone: str | None, settle: float | None) -> Cron:
    from flows.schedules import Cron, local_timezone

    if settle is not None:
        raise UsageError(f"--settle {settle:g} is for --watch, not for --cron")
    return Cron(cron=" ".join(cron.split()), timezone=timezone or local_timezone())


def _tell(home: Path, schedule: Schedule) -> bool:
    """Register a schedule, or tell the server that it is paused or not; whether a server answered."""
    from flows.home import connected, server_answers

    if not server_answers(home):
        return False
    with connected(home):
        from flows import deployments

        deployments.register(schedule)
    return True


def _set_paused(home: Path, name: str, paused: bool) -> int:
    from flows import schedules

    schedule = schedules.load(home, name).model_copy(update={"paused": paused})
    schedules.save(home, schedule)
    told = _tell(home, schedule)
    print_note(f"schedule {name} {'paused' if paused else 'resumed'}")
    if not told:
        print_note("no server answers now: 'medvision schedule serve' will tell it")
    return 0


def _row(schedule: Schedule, seen: Seen | None) -> tuple[str, ...]:
    state = "paused" if schedule.paused else "active"
    return (
        schedule.name,
        schedule.words(),
        state,
        _local(None if schedule.paused or seen is None else seen.next_run),
        _local(None if seen is None else seen.last_run),
        "" if seen is None else seen.last_state.lower(),
    )


def _by(schedule: Schedule) -> str:
    return f", by the workers of pool {schedule.pool}" if schedule.pool else ""


def _local(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M %Z}"
