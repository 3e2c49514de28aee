"""The network alone: ResNet-18 at 224 px in every way it can be computed, in interleaved rounds of one process.

Everything is given as a ratio to what tools around torch do: the network in float32, channels first, on a batch that is
normalised already. Our ways take uint8 windows and normalise them. The ratio of processor time is the steadier one
where other work shares the machine.

    python tests/benchmarks/bench_network.py [--batch 32] [--rounds 7] [--compile] [--shipped]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from medvision.core.errors import UsageError
from medvision.engine.backends import prepare
from medvision.engine.contract import PatchModel
from medvision.engine.device import computes_bfloat16
from medvision.models import load_model
from medvision.models.catalogue import as_patch_model
from medvision.models.contract import WeightsContract

BASE = "peers: float32, channels first"
WAYS = [
    ("eager", "float32"),
    ("fused", "float32"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("eager", "bfloat16"),
    ("fused", "bfloat16"),
    ("openvino", "bfloat16"),
]
COMPILED = [("compile", "float32"), ("compile", "bfloat16")]


def resnet18() -> PatchModel:
    """ResNet-18 of torchvision for two classes, with random weights: what they are does not change the time."""
    from torchvision.models import resnet18 as build

    torch.manual_seed(0)
    contract = WeightsContract(
        architecture="resnet18",
        classes=("normal", "tumor"),
        window_px=224,
        spacing_um=0.5,
        precisions=("float32", "bfloat16"),
    )
    return as_patch_model("resnet18", build(num_classes=2).eval(), contract)


def runs_of(
    model: PatchModel, batch_size: int, ways: list[tuple[str, str]]
) -> dict[str, Callable[[], object]]:
    """What is measured, by name: each a call that computes one batch."""
    cpu = torch.device("cpu")
    random = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (batch_size, *model.window, 3), dtype=torch.uint8, generator=random)
    prepared = model.prepare(batch).contiguous()
    runs: dict[str, Callable[[], object]] = {BASE: lambda: model.net(prepared)}
    for backend, precision in ways:
        try:
            runner = prepare(model, cpu, backend, precision)
        except UsageError as error:
            print(f"left out: {backend} {precision}: {error}")
            continue
        runs[f"{backend} {precision}"] = lambda runner=runner: runner(batch)  # type: ignore[misc]
    return runs


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and processor seconds of each round, after one that is not counted; in every round each runs once."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, run in runs.items():
                wall, processor = time.perf_counter(), time.process_time()
                run()
                spent = (time.perf_counter() - wall, time.process_time() - processor)
                if number:
                    times[name].append(spent)
    return times


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile as well, which takes minutes to begin"
    )
    parser.add_argument("--shipped", action="store_true", help="camelyon-mini rather than ResNet-18")
    given = parser.parse_args()
    model = load_model() if given.shipped else resnet18()
    runs = runs_of(model, given.batch, [*WAYS, *(COMPILED if given.compile else [])])
    times = measure(runs, given.rounds)
    print(
        f"{model.name}, {model.window[0]} px, batch {given.batch}, {torch.get_num_threads()} threads, "
        f"{given.rounds} rounds; bfloat16 {'in' if computes_bfloat16(torch.device('cpu')) else 'not in'} the processor"
    )
    print("\n| way | windows/s | ratio | range | ratio of processor time |\n|---|---:|---:|---:|---:|")
    for name, spent in times.items():
        pairs = list(zip(times[BASE], spent, strict=True))
        ratios = sorted(base[0] / own[0] for base, own in pairs)
        processor = statistics.median(base[1] / own[1] for base, own in pairs)
        rate = given.batch / statistics.median(wall for wall, _ in spent)
        print(
            f"| {name} | {rate:.1f} | {statistics.median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} "
            f"| {processor:.2f} |"
        )


if __name__ == "__main__":
    main()
