"""A virtual environment for each tool, with the versions in `requirements/`, made when absent or out of date."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"


class InstallError(Exception):
    """An environment could not be made; the message is one line."""


def environment(tool: str, root: Path) -> Path:
    """The Python of the environment of `tool` below `root`.

    torch is installed with what it needs, so that a build without CUDA stays small. Everything else is listed whole and
    installed without dependencies, because some tools ask for another torch, which would then be fetched as well.

    Raises:
        InstallError: if a step fails, with what it said.
    """
    folder = root / tool
    python = folder / "bin" / "python"
    lists = [REQUIREMENTS / "torch.txt", REQUIREMENTS / f"{tool}.txt"]
    wanted = sha256(b"".join(path.read_bytes() for path in lists)).hexdigest()
    stamp = folder / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"installing {tool} into {folder}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--requirement", str(lists[0])])
    _run([*pip, "--no-deps", "--requirement", str(lists[1])])
    stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InstallError(last_line(done.stderr or done.stdout))


def last_line(text: str) -> str:
    """The last line that says what went wrong: pip's first error, or the exception at the end of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines[-1:] or ["no message"])[0][:300].replace("|", "/")
