"""Start-up: `import medvision` and `medvision --help`, best of 5, each in a fresh interpreter.

Run by `make bench`; the figures go into docs/results.md. The time of an empty interpreter is printed beside them.
"""

from __future__ import annotations

import subprocess
import sys
import time


def best_of(command: list[str], repeats: int = 5) -> float:
    """Seconds of the fastest of `repeats` runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print a Markdown table."""
    python = sys.executable
    rows = {
        "empty interpreter": [python, "-c", "pass"],
        "`import medvision`": [python, "-c", "import medvision"],
        "`medvision --help`": [python, "-m", "medvision.cli", "--help"],
        "`medvision analyze --help`": [python, "-m", "medvision.cli", "analyze", "--help"],
    }
    print("| what | seconds, best of 5 |\n|---|---|")
    for what, command in rows.items():
        print(f"| {what} | {best_of(command):.2f} |")


if __name__ == "__main__":
    main()
