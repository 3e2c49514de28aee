"""The `medvision` command. Commands are imported when they are called, so that help is instant."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from medvision import __version__
from medvision.core.errors import MedvisionError

DONE, SOME_FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

app = App(
    name="medvision",
    version=__version__,
    help=(
        "Whole-slide and medical imaging analysis: heatmaps, clinical reports, official evaluations.\n\n"
        "Research use only - not for diagnosis.\n\n"
        "Exit status: 0 done; 1 some inputs failed, each named with its reason; 2 wrong usage or unreadable input."
    ),
    help_format="plaintext",  # Markdown would cost a tenth of a second to import
    default_parameter=Parameter(consume_multiple=True, negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

_COMMANDS = {
    "aggregate": (
        "medvision.cli.aggregate:aggregate",
        "Judge slides as a whole by attention MIL or CNN-LSTM over feature tables.",
    ),
    "analyze": (
        "medvision.cli.analyze:analyze",
        "Analyse slides: heatmap, lesion regions, score and report for each.",
    ),
    "batch": (
        "medvision.cli.batch:batch",
        "Analyse every slide of a manifest or folder, unattended, with a page of all.",
    ),
    "batch-images": (
        "medvision.cli.batch:batch_images",
        "Classify every image of a manifest or folder, unattended, with a page of all.",
    ),
    "batch-scans": (
        "medvision.cli.batch:batch_scans",
        "Search every chest CT of a manifest or folder for nodules, unattended, with a page of all.",
    ),
    "batch-segment": (
        "medvision.cli.batch:batch_segment",
        "Segment every image, slide or volume of a manifest or folder, unattended, with a page of all.",
    ),
    "benchmark": ("medvision.cli.benchmark:benchmark", "Measure speed against its limits on this machine."),
    "calibrate": (
        "medvision.cli.calibrate:calibrate",
        "Make a model's scores probabilities, on labelled predictions.",
    ),
    "check": (
        "medvision.cli.inspect:check",
        "Dry run: is each slide readable, and what would an analysis cost?",
    ),
    "classify": ("medvision.cli.classify:classify", "Classify images, or folders of them; a page for each."),
    "demo": (
        "medvision.cli.demo:demo",
        "Make four synthetic slides, analyse them and evaluate against the truth.",
    ),
    "embed": (
        "medvision.cli.embed:embed",
        "Show images as a classifier sees them: t-SNE, UMAP or PCA, coloured by class.",
    ),
    "evaluate": ("medvision.cli.evaluate:app", "Score predictions by a benchmark's official protocol."),
    "features": (
        "medvision.cli.features:features",
        "Feature vectors of a slide's windows, as Zarr and Parquet.",
    ),
    "info": ("medvision.cli.inspect:info", "Say what a file is: format, levels, spacing, reader, metadata."),
    "lesions": (
        "medvision.cli.lesions:lesions",
        "Lesions scored by two models, from their heatmaps.",
    ),
    "models": ("medvision.cli.models:app", "List the models that can be named, show one, measure one."),
    "nodules": ("medvision.cli.nodules:nodules", "Search chest CT for lung nodules; a page for each scan."),
    "pseudonyms": (
        "medvision.cli.batch:pseudonyms",
        "Names for slides, images and scans that say nothing about a patient.",
    ),
    "report": ("medvision.cli.report:report", "Render the reports of a run again, without recomputing."),
    "runs": ("medvision.cli.runs:app", "List the runs of an output folder, show one, check its results."),
    "schedule": (
        "medvision.cli.schedule:app",
        "Run batches at set times, or when slides or images arrive in a folder.",
    ),
    "segment": (
        "medvision.cli.segment:segment",
        "Say what each pixel of images, slides or volumes is: masks, outlines, areas, a page for each.",
    ),
    "server": ("medvision.cli.server:app", "Prefect's server, which schedules batches and shows them."),
    "study": ("medvision.cli.study:app", "Compare ways of training on the same images."),
    "synthesize": (
        "medvision.cli.synthesize:app",
        "Write synthetic H&E slides, or chest CT scans, with their truth.",
    ),
    "taxonomy": (
        "medvision.cli.taxonomy:taxonomy",
        "Check a taxonomy, and partition it into training classes.",
    ),
    "train": ("medvision.cli.train:app", "Train a model."),
}

for _name, (_path, _help) in _COMMANDS.items():
    app.command(_path, name=_name, help=_help)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status instead of exiting."""
    previous = _on_termination(_terminate)
    try:
        status = app(argv, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _refuse(_explained(error))
    except MedvisionError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("medvision: interrupted; a later run continues from here", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        print("medvision: terminated; a later run continues from here", file=sys.stderr)
        return TERMINATED
    finally:
        _on_termination(previous)
    return status if isinstance(status, int) else DONE


class _Terminated(BaseException):
    """SIGTERM arrived: progress is saved on the way out, as for Ctrl-C."""


def _terminate(_number: int, _frame: object) -> None:
    raise _Terminated


def _on_termination(handler: Any) -> Any:
    """Install a handler of SIGTERM; returns the one before. Signals belong to the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _refuse(message: str) -> int:
    print(f"medvision: error: {message}", file=sys.stderr)
    return WRONG_USAGE


def _explained(error: CycloptsError) -> str:
    """What is wrong with the command line, one line per option; a model's own words rather than pydantic's."""
    cause: BaseException | None = error
    while cause is not None and not hasattr(cause, "errors"):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return " ".join(str(error).split())
    lines = []
    for one in cause.errors():
        option = "--" + str(one["loc"][-1] if one["loc"] else "").replace("_", "-")
        words = one["msg"][:1].lower() + one["msg"][1:]
        lines.append(f"{option} {one['input']}: {words}")
    return "; ".join(lines)
