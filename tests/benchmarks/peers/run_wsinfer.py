"""WSInfer on one slide: the steps of `wsinfer run`, with a TorchScript model from a file.

The command itself asks a server for the list of models when it is imported, so its steps are called here. The model is
written as TorchScript before, by `--prepare`, and is not part of what is timed, as a model at hand would not be.
`--variant` is the reader, and "speedup" after it for the option of that name.
"""

from __future__ import annotations

import sys
from pathlib import Path

import networks
from one_run import arguments, report


def prepare(folder: Path) -> None:
    """Write both networks as TorchScript."""
    import torch

    networks.declare_missing_operators()
    for name in networks.NETWORKS:
        example = torch.zeros(1, 3, networks.WINDOW, networks.WINDOW)
        torch.jit.trace(networks.bare_network(name), example).save(str(folder / f"{name}.pt"))


def main() -> None:
    """Tissue, patches, network, table of results."""
    given = arguments()
    networks.declare_missing_operators()
    import pandas
    import wsinfer_zoo.client
    from wsinfer.modellib.models import LocalModelTorchScript
    from wsinfer.modellib.run_inference import run_inference
    from wsinfer.patchlib import segment_and_patch_directory_of_slides
    from wsinfer.wsi import set_backend

    reader, _, speedup = given.variant.partition(" ")
    set_backend(reader)
    config = wsinfer_zoo.client.ModelConfiguration.from_dict(
        {
            "spec_version": "1.0",
            "architecture": given.network,
            "num_classes": 2,
            "class_names": ["normal", "tumor"],
            "name": given.network,
            "patch_size_pixels": networks.WINDOW,
            "spacing_um_px": networks.SPACING_UM,
            "transform": [
                {"name": "Resize", "arguments": {"size": networks.WINDOW}},
                {"name": "ToTensor"},
                {"name": "Normalize", "arguments": {"mean": networks.MEAN, "std": networks.STD}},
            ],
        }
    )
    slides = given.out / "slides"
    slides.mkdir()
    (slides / given.slide.name).symlink_to(given.slide.resolve())
    model = LocalModelTorchScript(config=config, model_path=str(given.out.parent / f"{given.network}.pt"))
    segment_and_patch_directory_of_slides(
        wsi_dir=slides,
        save_dir=given.out,
        patch_size_px=networks.WINDOW,
        patch_spacing_um_px=networks.SPACING_UM,
    )
    failed = run_inference(
        wsi_dir=slides,
        results_dir=given.out,
        model_info=model,
        batch_size=given.batch,
        num_workers=given.workers,
        speedup=speedup == "speedup",
    )
    if any(failed):
        raise SystemExit(f"WSInfer gave up: {failed}")
    rows = pandas.concat(pandas.read_csv(path) for path in (given.out / "model-outputs-csv").glob("*.csv"))
    assert {448} == set(rows["width"]), "patches of another size"
    report(len(rows), ("wsinfer", "openslide-python", "tiffslide", "torch"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]))
    else:
        main()
