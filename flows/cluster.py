"""Workers of a Dask cluster, which may lose its scheduler, or its last worker, while a batch runs."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import TaskRunner

from medvision.core.errors import UsageError
from medvision.pipelines.batch_config import BatchOptions

ANSWER_S = 15.0
"""How long a scheduler may take to answer before the first slide."""
NO_WORKERS_S = 60.0
"""How long a cluster may have no worker: longer than one takes to be started anew."""
_LOOK_S = 5.0


def check_reach(options: BatchOptions) -> None:
    """Refuse a cluster that is not there, or whose workers could not reach Prefect's server.

    Raises:
        UsageError: if no scheduler answers at the address, it has no workers, or it is on another host and the server
            answers on this one alone.
    """
    address = options.address
    if address is None:
        return
    server = str(PREFECT_API_URL.value())
    if not _is_here(address) and _is_here(server):
        raise UsageError(
            f"--address {address} is another host, whose workers cannot reach Prefect's server at {server}: "
            "set PREFECT_API_URL to a server that they can reach (`medvision server start --host`)"
        )
    _check_scheduler(address)


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _check_scheduler(address: str) -> None:
    _import_dask()
    try:
        client = _client(address)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--address {address}: no Dask scheduler answers there; start one with `dask scheduler`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWER_S)
        except OSError as error:
            raise UsageError(
                f"--address {address}: the scheduler has no workers; start some: dask worker {address}"
            ) from error


def _client(address: str) -> Any:
    import distributed

    connect: Any = distributed.Client
    return connect(address, timeout=ANSWER_S, set_as_default=False)


def dask_runner(options: BatchOptions) -> TaskRunner[Any]:
    """The workers at an address, or as many as wanted on this host.

    Raises:
        UsageError: if Dask is not installed.
    """
    _import_dask()
    from prefect_dask.task_runners import DaskTaskRunner

    if options.address is not None:
        return DaskTaskRunner(address=options.address)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": options.workers,
            "threads_per_worker": 1,
            "processes": True,
            "dashboard_address": None,
            "host": "127.0.0.1",
            "silence_logs": logging.CRITICAL,
        }
    )


def _import_dask() -> None:
    try:
        import prefect_dask.task_runners  # noqa: F401
    except ImportError as error:
        raise UsageError("--runner dask needs Dask: pip install 'medvision[dask]'") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


class Watch:
    """Waits for the tasks of a cluster, but not for ever for one that has no workers left."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._last_seen = time.monotonic()

    @classmethod
    def of(cls, workers: TaskRunner[Any]) -> Watch:
        """One for the cluster that a Dask task runner has work on."""
        return cls(getattr(workers, "client"))  # noqa: B009 - of its class alone, which may not be installed

    def result(self, future: PrefectFuture[Any]) -> object:
        """What a task returned or raised.

        Raises:
            ConnectionError: if the cluster has had no worker for too long.
            CancelledError: if the scheduler was lost.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                return future.result(timeout=_LOOK_S, raise_on_failure=False)
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            if self._client.nthreads():
                self._last_seen = time.monotonic()
        if time.monotonic() - self._last_seen > NO_WORKERS_S:
            raise ConnectionError(f"the Dask cluster has had no worker for {NO_WORKERS_S:g} s")
