"""medvision on one slide, by its public interface: tissue, plan, patch engine, raster of probabilities.

`--variant` is `backend:precision`, as `--backend` and `--precision` of the command line. `--workers` is not used: the
engine takes as many reader threads as there are cores.
"""

from __future__ import annotations

from hashlib import sha256

import networks
from one_run import arguments, report

MINIMUM_TISSUE = 0.5


def main() -> None:
    """What `medvision analyze` does before its report, with a network of ours and no overlap."""
    given = arguments()
    import numpy as np
    import torch

    from medvision.core.geometry import Spacing
    from medvision.engine.contract import Normalisation, PatchModel
    from medvision.engine.engine import EngineSettings, PatchEngine
    from medvision.pipelines.heatmap import compute_heatmap, locate_tissue, plan_heatmap, read_overview
    from medvision.sources import open_source

    backend, _, precision = given.variant.partition(":")
    model = PatchModel(
        name=given.network,
        net=networks.bare_network(given.network),
        window=(networks.WINDOW, networks.WINDOW),
        spacing=Spacing((networks.SPACING_UM, networks.SPACING_UM)),
        normalisation=Normalisation(networks.MEAN, networks.STD),
        output="scores",
        classes=("normal", "tumor"),
        digest=sha256(given.network.encode()).hexdigest(),
        activation=lambda logits: torch.softmax(logits, dim=1),
        precisions=(
            "float32",
            "bfloat16",
        ),  # not `close`: nothing is measured on labels, so "auto" keeps to float32
    )
    settings = EngineSettings(device="cpu", batch_size=given.batch, backend=backend, precision=precision)
    engine = PatchEngine(settings)
    source = open_source(given.slide)
    try:
        overview = read_overview(source)
        tissue = locate_tissue(overview)
        plan = plan_heatmap(
            source, model, tissue, overview, stride=networks.WINDOW, minimum_tissue=MINIMUM_TISSUE
        )
        raster, stats = compute_heatmap(engine, source, plan, engine.prepare(model))
    finally:
        source.close()
    np.savez(given.out / "raster.npz", raster.values)
    note = f"{stats.backend}, {stats.precision}, reader {source.reader}"
    report(stats.windows - len(stats.unread), ("medvision", "torch", "openvino"), note)


if __name__ == "__main__":
    main()
