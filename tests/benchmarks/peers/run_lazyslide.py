"""LazySlide on one slide: tissue, tiles, `feature_extraction` with a torch network.

`--variant` is empty, or "compile" for its option of that name.
"""

from __future__ import annotations

import networks
from one_run import arguments, report


def main() -> None:
    """As in its tutorial, with a network of ours in place of a foundation model."""
    given = arguments()
    networks.declare_missing_operators()
    import lazyslide as zs
    from wsidata import open_wsi

    net = networks.Counted(networks.bare_network(given.network)).eval()
    slide = open_wsi(str(given.slide), store=str(given.out / "slide.zarr"))
    zs.pp.find_tissues(slide)
    zs.pp.tile_tissues(slide, networks.WINDOW, mpp=networks.SPACING_UM)
    zs.tl.feature_extraction(
        slide,
        net,
        model_name=given.network,
        transform=networks.transform(),
        device="cpu",
        batch_size=given.batch,
        num_workers=given.workers,
        compile=given.variant == "compile",
        pbar=False,
    )
    slide.write()
    packages = ("lazyslide", "wsidata", "openslide-python", "torch")
    report(net.windows, packages, note=f"reader {type(slide.reader).__name__}")


if __name__ == "__main__":
    main()
