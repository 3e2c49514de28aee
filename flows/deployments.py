"""Schedules as Prefect sees them: one deployment of a flow for each. Needs a server that answers.

Prefect is told paths that a person gave and paths of manifests whose names are times; never the name of a slide or an
image.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron as PrefectCron
from prefect.types.entrypoint import EntrypointType

from flows.home import settings
from flows.schedules import Cron, Schedule
from medvision.core.errors import UsageError
from medvision.pipelines.batch_config import BatchRequest

TAG = "medvision"
WORKER_ENVIRONMENT = {
    name: value
    for name, value in settings(Path()).items()
    if name in ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_LOGGING_TO_API_ENABLED")
} | {"DO_NOT_TRACK": "1"}
"""What a worker's runs are told, whose machine has a home folder and an address of its own."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server knows of a schedule: when it runs next, and how it last ran."""

    next_run: datetime | None
    last_run: datetime | None
    last_state: str


def deployment_of(schedule: Schedule) -> RunnerDeployment:
    """The deployment of a schedule, not yet registered."""
    from flows.by_work import flow_for

    when = schedule.when
    made: RunnerDeployment = RunnerDeployment.from_flow(
        flow_for(schedule.request),
        name=schedule.name,
        schedules=[PrefectCron(when.cron, timezone=when.timezone)] if isinstance(when, Cron) else [],
        paused=schedule.paused,
        parameters={"request": schedule.request.model_dump(mode="json")},
        tags=[TAG],
        entrypoint_type=EntrypointType.MODULE_PATH,
        work_pool_name=schedule.pool,
        job_variables={"env": WORKER_ENVIRONMENT} if schedule.pool else {},
    )
    # Said explicitly, so that a schedule that is registered again without its pool leaves that pool.
    made.work_pool_name = schedule.pool
    return made


def register(schedule: Schedule) -> UUID:
    """Make the deployment of a schedule, or bring it up to date.

    Raises:
        UsageError: if the schedule names a work pool that the server does not know.
    """
    if schedule.pool is not None:
        with get_client(sync_client=True) as client:
            _check_pool(client, schedule.pool)
    return cast("UUID", deployment_of(schedule).apply())


def _check_pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        there = ", ".join(sorted(known.name for known in client.read_work_pools())) or "none"
        raise UsageError(
            f"--pool {pool}: no such work pool; pools: {there}; make one: prefect work-pool create {pool} "
            f"--type process && prefect work-pool set-concurrency-limit {pool} 1"
        ) from None


def title(schedule: Schedule) -> str:
    """What Prefect calls a schedule's deployment: the flow's name and its own."""
    return f"{schedule.request.work.flow}/{schedule.name}"


def unregister(schedule: Schedule) -> None:
    """Remove a schedule's deployment and the runs that were still to come; runs that were made stay listed."""
    with get_client(sync_client=True) as client:
        if (found := find(client, schedule)) is not None:
            client.delete_deployment(found)


def find(client: SyncPrefectClient, schedule: Schedule) -> UUID | None:
    """Identity of a schedule's deployment, if it is registered."""
    try:
        return client.read_deployment_by_name(title(schedule)).id
    except ObjectNotFound:
        return None


def submit(schedule: Schedule, request: BatchRequest, run_name: str, key: str | None = None) -> FlowRun:
    """Have a batch run as soon as there is room; the same `key` twice is one run.

    `run_name` and the request are kept by Prefect: no name of a slide or an image may be in them.
    """
    with get_client(sync_client=True) as client:
        found = find(client, schedule)
    if found is None:
        found = register(schedule)
    with get_client(sync_client=True) as client:
        return client.create_flow_run_from_deployment(
            found,
            parameters={"request": request.model_dump(mode="json")},
            name=run_name,
            idempotency_key=key,
        )


def read_run(identity: UUID) -> FlowRun | None:
    """A run as it is now; None where the server does not know it, as with a new database."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(identity)
        except ObjectNotFound:
            return None


def seen(schedule: Schedule) -> Seen | None:
    """What the server knows of a schedule; None where it is not registered."""
    with get_client(sync_client=True) as client:
        if (found := find(client, schedule)) is None:
            return None
        coming = _runs(client, found, [StateType.SCHEDULED], FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, 1)
        begun: list[StateType] = [kind for kind in StateType if kind is not StateType.SCHEDULED]
        last = _runs(client, found, begun, FlowRunSort.EXPECTED_START_TIME_DESC, 1)
    return Seen(
        next_run=coming[0].next_scheduled_start_time if coming else None,
        last_run=(last[0].start_time or last[0].expected_start_time) if last else None,
        last_state=(last[0].state_name or "") if last else "",
    )


def missed_of(schedule: Schedule) -> int:
    """How many runs of a schedule are past their time and have not begun."""
    with get_client(sync_client=True) as client:
        found = find(client, schedule)
        return 0 if found is None else len(_missed(client, found))


def catch_up(schedule: Schedule, identity: UUID) -> None:
    """Have one run make up for all that were missed: each would be a batch over the same files."""
    with get_client(sync_client=True) as client:
        missed = _missed(client, identity)
        for run in missed[:-1]:
            client.delete_flow_run(run.id)
    if not missed:  # Prefect drops them when a deployment is registered again
        submit(schedule, schedule.request, run_name(schedule.name, datetime.now(UTC)))


def _missed(client: SyncPrefectClient, identity: UUID) -> list[FlowRun]:
    now = datetime.now(UTC)
    runs = _runs(client, identity, [StateType.SCHEDULED], FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, 200)
    return [
        run
        for run in runs
        if run.auto_scheduled and run.next_scheduled_start_time and run.next_scheduled_start_time < now
    ]


def _runs(
    client: SyncPrefectClient, deployment: UUID, states: list[StateType], sort: FlowRunSort, limit: int
) -> list[FlowRun]:
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
        sort=sort,
        limit=limit,
    )


def run_name(schedule: str, at: datetime, of: Path | None = None) -> str:
    """Name of a run: the schedule's, and a time."""
    return f"{schedule} {of.stem if of else at.strftime('%Y-%m-%dT%H-%M-%S')}"
