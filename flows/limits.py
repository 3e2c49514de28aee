"""No run starts where a limit is missing: Prefect takes a limit that was never set for no limit at all.

A work pool without one starts every run that is due at once, on one device; a tag without one holds nobody back.
"""

from __future__ import annotations

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from medvision.core.errors import UsageError

TAG = "limit:"
"""Tags of a deployment that begin so name a limit of Prefect on the tasks that carry the tag."""


def require_limits() -> tuple[str, ...]:
    """Refuse to go on where this flow run lacks a limit; returns the limits' tags, for its tasks to carry.

    To be called first in a flow: `with prefect.tags(*require_limits()): ...`. A run that no work pool executes, and
    that names no limit, needs none: it is started by a person, or by a runner that does one at a time.

    Raises:
        UsageError: if the run's work pool has no concurrency limit, or a tag `limit:...` of the run has none; names it
            and the command that sets it.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return ()
    with get_client(sync_client=True) as client:
        # The context's copy of the run was made by the engine and need not know the work pool.
        run = client.read_flow_run(context.flow_run.id)
        if run.work_pool_name is not None:
            _check_pool(client, run.work_pool_name)
        tags = tuple(sorted(tag for tag in run.tags if tag.startswith(TAG)))
        for tag in tags:
            _check_tag(client, tag)
    return tags


def _check_pool(client: SyncPrefectClient, pool: str) -> None:
    if client.read_work_pool(pool).concurrency_limit is None:
        raise UsageError(
            f"work pool {pool!r} has no concurrency limit, so that any number of batches would share a device; set "
            f"one, such as the number of its GPUs: prefect work-pool set-concurrency-limit {pool!r} 1"
        )


def _check_tag(client: SyncPrefectClient, tag: str) -> None:
    try:
        client.read_concurrency_limit_by_tag(tag)
    except ObjectNotFound:
        raise UsageError(
            f"the deployment's tag {tag!r} names a limit that does not exist; make it: "
            f"prefect concurrency-limit create {tag!r} 1"
        ) from None
