"""A scan never takes more than twice its own size in memory, whatever its file and however it is read."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

SHAPE = (128, 512, 512)
SIZE = 2 * 128 * 512 * 512

READ = """
import sys
import numpy as np
from medvision.core.geometry import Box
from medvision.sources import extent_at
from medvision.sources.describe_volume import value_range
from medvision.sources.resample import Reading
from medvision.sources.volume import open_volume
import nibabel, nrrd, scipy.sparse, pydicom, pydicom.pixels.processing
def peak():
    # Not ru_maxrss, which a process inherits from the one that started it.
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
before = peak()
volume = open_volume(sys.argv[1])
assert volume.levels[0].shape == (128, 512, 512)
assert value_range(volume) == (-1000, 126)
reading = Reading.of(volume, 1.0)
extent = extent_at(volume, 1.0)
out = np.empty((40, 40, 40, 1), np.int16)
rng = np.random.default_rng(0)
for _ in range(60):
    reading.read(Box.at(tuple(int(rng.integers(0, n)) for n in extent), (40, 40, 40)), out)
assert volume.id
volume.read(Box((0, 0, 0), (128, 512, 8)))
print(peak() - before)
held = volume.read(Box((0, 0, 0), (128, 512, 512)))
print(peak() - before)
"""


def taken(path: Path) -> tuple[float, float]:
    """Peak memory of reading windows of the scan, and of holding a whole copy of it besides, in its own sizes."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], check=True, capture_output=True, text=True)
    streamed, copied = (int(line) / SIZE for line in done.stdout.split())
    assert copied > 0.98  # or nothing was measured
    return streamed, copied


def planes() -> np.ndarray:
    """Planes that differ, and pack well enough not to take long."""
    made = np.full(SHAPE, -1000, np.int16)
    made[:, 100:400, 100:400] = np.arange(128, dtype=np.int16)[:, None, None] - 1
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scan of 64 MiB, plain and packed: a header points at the voxels."""
    made = tmp_path_factory.mktemp("large")
    data = planes().tobytes()
    assert len(data) == SIZE
    (made / "plain.raw").write_bytes(data)
    (made / "packed.zraw").write_bytes(zlib.compress(data, 1))
    for name, packed in (("plain", False), ("packed", True)):
        (made / f"{name}.mhd").write_text(
            f"NDims = 3\nDimSize = 512 512 128\nElementType = MET_SHORT\nElementSpacing = 0.7 0.7 2\n"
            f"CompressedData = {packed}\nElementDataFile = {name}.{'zraw' if packed else 'raw'}\n"
        )
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="measures the peak as Linux counts it")
@pytest.mark.parametrize(("name", "most"), [("plain", 0.6), ("packed", 1.6)])
def test_peak_of_reading_a_scan(folder: Path, name: str, most: float):
    streamed, copied = taken(folder / f"{name}.mhd")
    assert streamed < most
    assert copied < most + 1


@pytest.mark.skipif(sys.platform != "linux", reason="measures the peak as Linux counts it")
def test_peak_of_reading_a_series(volume_files):
    streamed, copied = taken(volume_files.dicom(planes(), np.diag([0.7, 0.7, 2.0, 1.0])))
    assert streamed < 2.0
    assert copied < 3.0
