"""Slideflow on one slide: Otsu's tissue mask, tile filter and a torch network behind its feature extractor.

It reads with libvips, with processes or threads of its own: `--workers` is how many processes, 0 stands for threads.
"""

from __future__ import annotations

import os

import networks
from one_run import arguments, report

os.environ["SF_BACKEND"] = "torch"
os.environ["SF_SLIDE_BACKEND"] = "libvips"
networks.declare_missing_operators()  # here, because its processes import this file again
SLIDE_UM = networks.WINDOW * networks.SPACING_UM


def main() -> None:
    """Mask, tiles, network, grid of features."""
    given = arguments()
    import numpy as np
    import slideflow as sf
    from slideflow.model.extractors._factory_torch import TorchFeatureExtractor

    class Extractor(TorchFeatureExtractor):
        """The network behind Slideflow's interface: in float32, with Slideflow's own transform of ImageNet."""

        tag = given.network
        license = "none"
        citation = "none"

        def __init__(self) -> None:
            super().__init__(mixed_precision=False)
            self.model = networks.Counted(networks.bare_network(given.network)).eval()
            self.num_features = 2
            self.transform = self.build_transform(img_size=networks.WINDOW)

        def dump_config(self) -> dict[str, object]:
            """What the interface asks for."""
            return {"class": "Extractor", "kwargs": {}}

    extractor = Extractor()
    slide = sf.WSI(str(given.slide), networks.WINDOW, int(SLIDE_UM), verbose=False, mpp=None)
    slide.qc("otsu")
    readers = (
        {"num_processes": given.workers} if given.workers else {"num_threads": len(os.sched_getaffinity(0))}
    )
    grid = extractor(slide, batch_size=given.batch, show_progress=False, **readers)
    np.savez(given.out / "features.npz", np.ma.filled(grid, np.nan))
    report(extractor.model.windows, ("slideflow", "pyvips", "pyvips-binary", "torch"))


if __name__ == "__main__":
    main()
