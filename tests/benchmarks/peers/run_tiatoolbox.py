"""TIAToolbox on one slide: `PatchPredictor` with its own tissue mask and a torch network.

`--variant` is the reader: "openslide", or "memory", which it chooses itself for a plain tiled TIFF: the whole slide is
decoded into memory first.
"""

from __future__ import annotations

import networks
from one_run import arguments, report


def main() -> None:
    """As in its example of patch prediction, with a network of ours."""
    given = arguments()
    networks.declare_missing_operators()
    import numpy as np
    import torch
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor
    from tiatoolbox.models.models_abc import ModelABC
    from tiatoolbox.wsicore.wsireader import OpenSlideWSIReader, WSIReader

    class Model(ModelABC):
        """The network behind the toolbox's interface."""

        def __init__(self) -> None:
            super().__init__()
            self.counted = networks.Counted(networks.bare_network(given.network))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.counted(x), dim=1)

        @staticmethod
        def infer_batch(
            model: torch.nn.Module, batch_data: torch.Tensor, *, device: str = "cpu"
        ) -> np.ndarray:
            model.eval()
            with torch.inference_mode():
                return model(batch_data.to(device)).cpu().numpy()

        @staticmethod
        def postproc(image: np.ndarray) -> np.ndarray:
            return np.argmax(image, axis=-1)

        @staticmethod
        def preproc(image: np.ndarray) -> torch.Tensor:
            return to_tensor(image)

    to_tensor = networks.transform()
    model = Model()
    predictor = PatchPredictor(
        model=model, batch_size=given.batch, num_workers=given.workers, device="cpu", verbose=False
    )
    side = (networks.WINDOW, networks.WINDOW)
    reader = OpenSlideWSIReader(given.slide)
    if given.variant == "memory":  # this one does not find the spacing
        reader = WSIReader.open(given.slide, mpp=tuple(reader.info.mpp))
    predictor.run(
        [reader],
        patch_mode=False,
        ioconfig=IOPatchPredictorConfig(
            patch_input_shape=side,
            stride_shape=side,
            input_resolutions=[{"resolution": networks.SPACING_UM, "units": "mpp"}],
        ),
        save_dir=given.out / "results",
        output_type="zarr",
        auto_get_mask=True,
        return_probabilities=True,
    )
    packages = ("tiatoolbox", "openslide-python", "tifffile", "torch")
    report(model.counted.windows, packages, note=type(reader).__name__)


if __name__ == "__main__":
    main()
