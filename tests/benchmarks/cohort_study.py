"""Every pathology method on one synthetic cohort: rendered, trained, run on the test slides, scored, in one table.

    python tests/benchmarks/cohort_study.py --out out/study                  # within an hour on two cores
    python tests/benchmarks/cohort_study.py --out out/study --smoke          # the same in minutes, on seven tiny slides

Runs the commands that docs/how-to-train.md gives, one after the other, each in a process of its own; what is done
already is not done again. Writes `study.json` and `study.md`. The slides are rendered: the table compares methods with
each other and shows that every part works; it says nothing about tissue of patients.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[2] / "configs"
MIL = ("abmil", "clam-sb", "clam-mb", "dsmil", "transmil")


@dataclass(frozen=True)
class Method:
    """A row of the table: predictions in `folder`. Attention outlines nothing, so some have no detections to score."""

    name: str
    folder: str
    detects: bool = True


METHODS = (
    Method("camelyon-mini as shipped, highest neighbourhood", "results/shipped"),
    Method("patch classifier, highest neighbourhood", "results/patch"),
    Method("patch classifier, random forest on heatmaps", "results/forest"),
    Method("patch classifier, detections by non-maximum suppression", "results/patch-nms"),
    Method("lesions of the patch classifier, scored by it and NCRF", "results/lesions"),
    Method("NCRF's base model, non-maximum suppression", "results/base"),
    Method("NCRF, non-maximum suppression", "results/ncrf"),
    *(Method(name, f"results/{name}", detects=False) for name in (*MIL, "cnn-lstm")),
)


def commands(out: Path, smoke: bool) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of each command, in order."""
    ending = "-smoke" if smoke else ""

    def config(name: str) -> str:
        return str(CONFIGS / f"{name}{ending}.yaml")

    def weights(name: str, file: str = "model") -> list[str]:
        return ["--weights", str(out / name / f"{file}.safetensors")]

    cohort, features = out / "cohort", ["--features", str(out / "features")]
    manifest = ["--cohort", str(cohort / "cohort.csv")]
    yield "render", ["synthesize", "cohort", "--config", config("cohort"), "--out", str(cohort)]
    yield (
        "patch",
        ["train", "patch", "--config", config("train-cohort-patch"), *manifest, "--out", str(out / "patch")],
    )
    yield "ncrf", ["train", "ncrf", "--config", config("train-ncrf"), *manifest, "--out", str(out / "ncrf")]
    for name in MIL:
        chosen = ["--architecture", name, "--out", str(out / name)]
        yield name, ["train", "mil", "--config", config("train-mil"), *manifest, *features, *chosen]
    sequences = ["--config", config("train-cnn-lstm"), *manifest, *features, "--out", str(out / "cnn-lstm")]
    yield "cnn-lstm", ["train", "cnn-lstm", *sequences]

    learnt, test = (
        sorted(map(str, (cohort / split / "slides").glob("*.tif"))) for split in ("train", "test")
    )
    small, nms = ["--model", "camelyon-mini"], ["--detections", "nms"]
    of_patch = [*small, *weights("patch")]
    yield "shipped: test", ["analyze", *test, "--out", str(out / "results/shipped")]
    yield "patch: test", ["analyze", *test, *of_patch, "--out", str(out / "results/patch")]
    yield "patch: test, nms", ["analyze", *test, *of_patch, *nms, "--out", str(out / "results/patch-nms")]
    for name, file in (("base", "base"), ("ncrf", "model")):
        chosen = ["--model", "ncrf-slim", *weights("ncrf", file), *nms]
        yield f"{name}: test", ["analyze", *test, *chosen, "--out", str(out / "results" / name)]
    both = [str(out / "results/patch"), str(out / "results/ncrf")]
    yield "lesions: test", ["lesions", *both, "--out", str(out / "results/lesions")]
    if not smoke:  # a forest needs more slides
        yield "patch: train", ["analyze", *learnt, *of_patch, "--out", str(out / "results/patch-train")]
        maps = ["--results", str(out / "results/patch-train"), "--out", str(out / "forest")]
        forest = ["--config", str(CONFIGS / "train-slide-forest.yaml"), *manifest, *maps]
        yield "forest", ["train", "slide-forest", *forest]
        judged = [
            "--slide-model",
            str(out / "forest" / "model.safetensors"),
            "--out",
            str(out / "results/forest"),
        ]
        yield "forest: test", ["analyze", *test, *of_patch, *judged]
    for name in (*MIL, "cnn-lstm"):
        judged = ["--model", str(out / name), *features, "--out", str(out / "results" / name)]
        yield f"{name}: test", ["aggregate", *manifest, "--split", "test", *judged]
    for method in METHODS:
        if (out / method.folder).is_dir():
            truth = ["--reference", str(cohort / "test" / "reference"), "--protocol", "corrected"]
            into = ["--out", str(out / "scores" / Path(method.folder).name)]
            yield (
                f"score {method.name}",
                [
                    "evaluate",
                    "camelyon16",
                    "--predictions",
                    str(out / method.folder),
                    *truth,
                    *into,
                ],
            )


def run(name: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds that a command took, by the clock and of all its processors. One that fails ends the study."""
    print(f"\n== {name}: medvision {shlex.join(arguments)[:200]}", flush=True)
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "medvision.cli", *arguments], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, processor


def rows(out: Path) -> list[dict[str, Any]]:
    """What the evaluations measured, a row for each method."""
    found = []
    for method in METHODS:
        path = out / "scores" / Path(method.folder).name / "camelyon16.json"
        if path.is_file():
            scores = json.loads(path.read_text(encoding="utf-8"))
            false = sum(slide["false_positives"] for slide in scores["per_slide"])
            found.append(
                asdict(method)
                | {"auc": scores["slide_auc"], "froc": scores["froc"], "false_positives": false}
            )
    return found


def table(found: list[dict[str, Any]], seconds: dict[str, list[float]]) -> str:
    """The rows as Markdown, and the time that each command took."""
    lines = [
        "| method | slide AUC | 95% interval | lesion FROC | 95% interval | false positives, all slides |",
        "|---|---:|---|---:|---|---:|",
    ]
    for row in found:
        auc, froc = row["auc"], row["froc"]
        cells = [*_figure(auc["value"], auc["interval"]), *_figure(froc["score"], froc["interval"])]
        cells.append(str(row["false_positives"]))
        if not row["detects"]:
            cells[2:] = ["none", "", ""]
        lines.append("| " + " | ".join([row["name"], *cells]) + " |")
    lines += ["", "| command | seconds | processor seconds |", "|---|---:|---:|"]
    whole = [sum(column) for column in zip(*seconds.values(), strict=True)]
    lines += [f"| {name} | {a:.0f} | {b:.0f} |" for name, (a, b) in {**seconds, "all": whole}.items()]
    return "\n".join([*lines, ""])


def _figure(value: float, interval: list[float] | None) -> tuple[str, str]:
    return f"{value:.3f}", "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def main() -> None:
    """Run what is not done yet, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/study"), help="everything goes here")
    parser.add_argument("--smoke", action="store_true", help="the smoke configurations, on seven tiny slides")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "study.json"
    seconds = json.loads(log.read_text(encoding="utf-8"))["seconds"] if log.is_file() else {}
    for name, arguments in commands(given.out, given.smoke):
        took = run(name, arguments)
        seconds[name] = max(list(took), seconds.get(name, [0.0, 0.0]))  # one with nothing left to do is quick
        made = {"rows": rows(given.out), "seconds": seconds}
        log.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    text = table(rows(given.out), seconds)
    (given.out / "study.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
