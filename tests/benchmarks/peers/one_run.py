"""What every script that runs one tool shares: its arguments, and what it prints when it is done.

Runs in the environment of each tool: standard library alone.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MARK = "PEERS-RESULT "


def arguments() -> argparse.Namespace:
    """What one run is to do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path, help="an empty folder for what the tool writes")
    parser.add_argument("--network", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--variant", default="", help="a way of running that only this tool knows")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def report(tiles: int, packages: tuple[str, ...], note: str = "") -> None:
    """Tell what was done: `tiles` is how many windows the network was given, counted where that happens."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    print(MARK + json.dumps({"tiles": tiles, "versions": found, "note": note}), flush=True)
