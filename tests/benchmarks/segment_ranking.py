"""Segmentation networks ranked on one shared setting: the same images, folds, windows, losses, augmentation and steps.

    python tests/benchmarks/segment_ranking.py --data ISBI2012 --out out/ranking
    python tests/benchmarks/segment_ranking.py --data ISBI2012 --out out/others --folds 5 --steps 350 \
        --networks fcn8s-vgg16 deeplab-v3-plus nnunet

The setting is that of configs/train-segment-isbi2012.yaml, each network in its slim form, from random weights, with
batch normalisation where it is a choice; learning rates are not tuned. Images are scored by networks that never saw
them: those of the first `--folds` of five folds. Differences to the best are of the same images, and so are the draws
of their intervals. A run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.evaluations.segment import SegmentResult, evaluate
from medvision.evaluations.segment_cases import CaseFiles
from medvision.evaluations.segment_setup import SegmentOptions
from medvision.metrics.ranking import bootstrap_intervals
from medvision.models.segmentation import build_segment_net, list_segment_nets, slim_segment_contract
from medvision.models.segmentation.designs import SEGMENTERS
from medvision.training.segment import contract_of, train_segment
from medvision.training.segment_config import TrainSegmentConfig, read_segment_config

CONFIG = Path(__file__).parents[2] / "configs" / "train-segment-isbi2012.yaml"
LEFT_OUT = {
    "unet-original": "answers for the middle of its window alone, which is no shared setting",
    "fc-densenet67": "a step takes five times that of the others",
    "fc-densenet103": "a step takes five times that of the others",
}


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the 30 images and labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=1, help="how many of the five are held out in turn")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--networks", nargs="+", choices=list_segment_nets(), metavar="NAME")
    args = parser.parse_args()
    results: dict[str, SegmentResult] = {}
    sizes: dict[str, int] = {}
    for name in args.networks or [name for name in list_segment_nets() if name not in LEFT_OUT]:
        began = time.perf_counter()
        names = [held for config in configs(name, args) for held in trained(config, args.out / name)]
        results[name] = score(args.data, args.out / name, names)
        net = build_segment_net(contract_of(next(configs(name, args))))
        sizes[name] = sum(p.numel() for p in net.parameters())
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        args.out.joinpath("ranking.md").write_text(table(results, sizes))
    print(table(results, sizes))


def configs(name: str, args: argparse.Namespace) -> Iterator[TrainSegmentConfig]:
    """The shared setting with one network in its slim form, for each fold held out."""
    shared = read_segment_config(CONFIG, args.data)
    options = slim_segment_contract(name).options.model_dump(mode="json", exclude_defaults=True)
    if "norm" in SEGMENTERS[name].reads:
        options["norm"] = (
            "batch"  # without pretrained weights those that have none do not learn in so few steps
        )
    for fold in range(args.folds):
        yield shared.model_copy(
            update={
                "name": name,
                "architecture": name,
                "contract": {**shared.contract, "options": options},
                "split": shared.split.model_copy(update={"fold": fold}),
                "steps": args.steps,
                "check_every": max(1, args.steps // 4),
            }
        )


def trained(config: TrainSegmentConfig, out: Path) -> list[str]:
    """Train where that is not done; the images that were held out, whose predictions lie in `out`."""
    done = out / f"done-{config.split.fold}.json"
    if not done.exists():
        train_segment(config, out)
        done.write_text(json.dumps((out / "held-out.txt").read_text().split()))
    return [str(name) for name in json.loads(done.read_text())]


def score(data: Path, out: Path, names: list[str]) -> SegmentResult:
    """The figures of ISBI 2012's later evaluation for the images held out."""
    cases = out / "scored.txt"
    cases.write_text("".join(f"{name}\n" for name in names))
    truth = next(path for path in sorted(data.rglob("label*")) if path.is_dir())
    return evaluate(
        out / "probabilities" / "cell",
        truth,
        SegmentOptions(task="membranes", thresholds=(0.3, 0.5, 0.7)),
        CaseFiles(cases=cases),
    )


def table(results: dict[str, SegmentResult], sizes: dict[str, int]) -> str:
    """A line of each network, best V Rand first."""
    best = max(results, key=lambda name: _means(results[name])[0])
    names = [measure.key for measure in results[best].kind.measures]
    places = [
        names.index(name) for name in ("v_rand", "v_info", "rand_error", "warping_error", "pixel_error")
    ]
    lines = [
        "| network | parameters | V Rand (95% interval) | less than the best | V Info | Rand error | warping error | "
        "pixel error |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for name in sorted(results, key=lambda name: -_means(results[name])[0]):
        result = results[name]
        values, figures = _values(result), _means(result)
        own, apart = (
            _interval(found) for found in (values[:, 0], _values(results[best])[:, 0] - values[:, 0])
        )
        behind = "" if name == best else f"{_means(results[best])[0] - figures[0]:.3f} ({apart})"
        others = " | ".join(
            f"{figures[k]:.4f}" if k == places[3] else f"{figures[k]:.3f}" for k in places[1:]
        )
        lines.append(
            f"| `{name}` | {sizes[name] / 1e6:.2f} M | {figures[0]:.3f} ({own}) | {behind} | {others} |"
        )
    images = len(results[best].cases)
    return "\n".join(
        [*lines, "", f"{images} images held out; thresholds by the best mean V Rand of 0.3, 0.5 and 0.7\n"]
    )


def _values(result: SegmentResult) -> npt.NDArray[np.float64]:
    """(images, measures) at the threshold that counts."""
    return np.asarray(result.values[:, result.chosen[0]], np.float64)


def _means(result: SegmentResult) -> npt.NDArray[np.float64]:
    return np.asarray(_values(result).mean(axis=0))


def _interval(values: npt.NDArray[np.float64]) -> str:
    found = bootstrap_intervals(lambda drawn: [float(drawn.mean())], values, n=1000, seed=0)[0]
    return found if isinstance(found, str) else f"{found[0]:.3f} to {found[1]:.3f}"


if __name__ == "__main__":
    main()
