"""Overlapping windows made one: the engine with its streaming sink beside MONAI's sliding window, by turns.

Both run one network, in float32, over one image in memory, with the same windows, overlap, weights and batch; the
result is compared, too. The engine also reads and normalises. Given are ratios of MONAI's time to the engine's, of
pairs of runs that follow each other, so that other work on the machine touches both.

    python tests/benchmarks/bench_windows.py [--side 1024] [--rounds 5] [--net unet|cheap] [--blend gaussian|constant]
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from medvision.engine.backends import prepare
from medvision.engine.blend import BlendSink, Canvas
from medvision.engine.contract import PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import overlapped
from medvision.models.segmentation import SegmentModel, build_segment_net, usual_segment_contract
from medvision.sources.array_source import ArraySource

BATCH = 4


class Cheap(nn.Module):
    """Two maps of one: so little work that what is measured is the handling of windows."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return torch.cat([windows, -windows], dim=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=float, default=0.25, help="of the U-Net")
    parser.add_argument("--net", choices=("unet", "cheap"), default="unet")
    parser.add_argument("--blend", choices=("gaussian", "constant"), default="gaussian")
    args = parser.parse_args()
    torch.manual_seed(0)
    contract = usual_segment_contract("unet", window=(args.window,) * 2, options={"width": args.width})
    net = build_segment_net(contract).eval() if args.net == "unet" else Cheap()
    model = replace(
        SegmentModel("bench", build_segment_net(contract).eval(), contract).patch_model(), net=net
    )
    image = np.random.default_rng(0).integers(0, 256, (args.side, args.side)).astype(np.uint8)
    pairs, largest = [], 0.0
    for turn in range(args.rounds + 1):
        (ours, mine), (theirs, monai) = _engine(model, image, args), _monai(model, image, args)
        largest = max(largest, float(np.abs(ours - theirs).max()))
        if turn:  # the first warms up
            pairs.append(monai / mine)
            print(f"round {turn}: engine {mine:.3f} s, MONAI {monai:.3f} s, ratio {monai / mine:.2f}")
    print(
        f"{args.net}, {args.side} px, windows of {args.window} px, overlap {args.overlap:g}, {args.blend}: MONAI takes "
        f"{statistics.median(pairs):.2f} times as long ({min(pairs):.2f} to {max(pairs):.2f}); largest difference "
        f"{largest:.2g}"
    )


def _engine(model: PatchModel, image: np.ndarray, args: argparse.Namespace) -> tuple[np.ndarray, float]:
    source = ArraySource(image[..., None], fill=0)
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=BATCH, readers=1))
    runner = prepare(model, engine.device, "eager", "float32")
    started = time.perf_counter()
    step = int(args.window * (1 - args.overlap))
    plan = overlapped(source.id, image.shape, model.window, (step, step))
    canvas = Canvas.of(plan, 2)
    engine.run(source, plan, runner, BlendSink(plan, (0, 0), args.blend, canvas))
    return canvas.values, time.perf_counter() - started


def _monai(model: PatchModel, image: np.ndarray, args: argparse.Namespace) -> tuple[np.ndarray, float]:
    started = time.perf_counter()
    norm = model.normalisation
    values = (torch.from_numpy(image)[None, None].float() / 255 - norm.mean[0]) / norm.std[0]
    with torch.inference_mode():
        found = sliding_window_inference(
            values,
            model.window,
            BATCH,
            lambda windows: model.activation(model.net(windows)),
            overlap=args.overlap,
            mode=args.blend,
        )
    return found[0].numpy(), time.perf_counter() - started


if __name__ == "__main__":
    main()
