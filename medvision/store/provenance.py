"""What made a result: the code, the libraries, the run, the time."""

from __future__ import annotations

import functools
import hashlib
import platform
import secrets
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import medvision

LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-image",
    "opencv-python-headless",
    "pillow",
    "shapely",
    "openslide-python",
    "openslide-bin",
    "tifffile",
    "imagecodecs",
    "pydicom",
    "torch",
    "torchvision",
    "timm",
    "monai",
    "scikit-learn",
    "zarr",
    "pyarrow",
    "matplotlib",
    "typst",
)
"""Distributions whose version can change a pixel or a figure of a result."""


@functools.cache
def code_digest() -> str:
    """SHA-256 over the names and bytes of the package's files: code, templates, fonts.

    Weights are left out, as each result names the digest of those that made it. Computed once per process.
    """
    root = Path(medvision.__file__).parent
    total = hashlib.sha256(f"medvision {medvision.__version__}\n".encode())
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".safetensors"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(root).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


@functools.cache
def software_versions() -> dict[str, str]:
    """Version of Python, of this package and of each of `LIBRARIES` that is installed. Imports none of them."""
    versions = {"python": platform.python_version(), "medvision": medvision.__version__}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def utc_now() -> str:
    """The time in UTC to the second, as `2026-01-31T12:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run_id() -> str:
    """A fresh name for a run: UTC time, so that names sort by it, and 8 random hexadecimal digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
