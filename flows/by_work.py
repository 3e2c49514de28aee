"""Which flow does which kind of work."""

from __future__ import annotations

from prefect.client.schemas.objects import State
from prefect.flows import Flow

from medvision.pipelines.batch_config import BatchRequest


def flow_for(request: BatchRequest) -> Flow[[BatchRequest], State[None]]:
    """The flow that does a request; each is named as its kind of work says."""
    from flows.batch import batch
    from flows.classify import classify
    from flows.nodules import nodules
    from flows.segment import segment

    every: tuple[Flow[[BatchRequest], State[None]], ...] = (batch, classify, nodules, segment)
    flows = {one.name: one for one in every}
    return flows[request.work.flow]
