"""A batch without Prefect, for tests that kill it: `python one_batch.py REQUEST.json`, or forks of one that is ready.

The parts are those of the flow: `BatchRun` keeps, `attempt_item` works. Only what sets workers on items is a loop
here, so that a hundred runs take minutes rather than hours.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from medvision.pipelines.batch import BatchRun, attempt_item
from medvision.pipelines.batch_config import BatchRequest


def run(request: BatchRequest) -> int:
    """Run a batch to its end; returns 0 if every slide is done."""
    with BatchRun(request) as batch:
        for item in batch.waiting():
            attempt_item(item, batch.request, batch.run_id)
    return 0 if all(outcome.ok for outcome in batch.outcomes.values()) else 1


def serve() -> None:
    """Fork a child for each request file named on standard input, and say its pid; a fork needs no imports."""
    children: set[int] = set()
    for line in sys.stdin:
        request = BatchRequest.model_validate_json(Path(line.strip()).read_bytes())
        pid = os.fork()
        if pid == 0:
            os.setsid()
            status = 1
            try:
                status = run(request)
            finally:
                os._exit(status)
        print(pid, flush=True)
        children.add(pid)
        _, status = os.waitpid(pid, 0)
        children.discard(pid)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(run(BatchRequest.model_validate_json(Path(sys.argv[1]).read_bytes())))
    serve()
