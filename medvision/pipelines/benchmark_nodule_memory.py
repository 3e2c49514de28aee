"""Memory of a search for nodules against the size of the scan: whole commands on a small scan and on a large one.

Both show the same piece of a chest, the large one in planes that lie eight times as dense, so that there is the same to
search. What is left when the peaks are taken from each other is the scan's own: networks and libraries need the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.world import WorldFrame
from medvision.models.nodules import build_nodule_net, usual_contract, write_nodule_model
from medvision.pipelines.benchmark_figures import Figure
from medvision.pipelines.benchmark_process import start_command
from medvision.sources.write_volume import write_dicom_series, write_metaimage, write_nifti
from medvision.synthetic.chest import draw_scan, sample_recipe

MOST = 2.0
"""Sizes of a scan that its search may take, besides what the networks take."""
_PLANES, _CHEST, _DENSER = 64, 12, 8
_STEP_MM, _ENLARGED = 3.0, 1.5

_FORMS: dict[str, Callable[[Path, npt.NDArray[np.int16], WorldFrame], Path]] = {
    "NIfTI, gzip": lambda folder, voxels, frame: write_nifti(folder / "scan.nii.gz", voxels, frame),
    "MetaImage, plain": lambda folder, voxels, frame: write_metaimage(folder / "scan.mhd", voxels, frame),
    "DICOM series": lambda folder, voxels, frame: _series(folder / "series", voxels, frame),
}


def memory_figures(folder: Path, device: str, quick: bool, tell: Callable[[str], None]) -> Iterator[Figure]:
    """Peaks of whole searches, and the growth of each format; `quick` takes the one that holds the scan unpacked."""
    options = ["--device", device, "--without-lungs"]
    for role, name in (("detector", "faster-rcnn-vgg-slim"), ("reduction", "nodule-cnn3d-slim")):
        # Weights at random find something everywhere: a few boxes of each window are enough.
        contract = usual_contract(name, **({"options": {"most": 2}} if role == "detector" else {}))
        write_nodule_model(folder / f"{role}.safetensors", build_nodule_net(contract), contract)
        options += [f"--{role}", str(folder / f"{role}.safetensors")]
    for form in list(_FORMS)[: 1 if quick else None]:
        peaks, sizes = [], []
        for denser in (1, _DENSER):
            tell(f"memory: {form}, {_PLANES * denser} planes")
            place = folder / "memory"
            place.mkdir()
            voxels, frame = _piece(denser)
            sizes.append(voxels.nbytes / 1e6)
            scan = _FORMS[form](place, voxels, frame)
            del voxels
            run = start_command(["nodules", str(scan), "--out", str(place / "out"), *options])()
            peaks.append(run.peak_mb)
            shutil.rmtree(place)
            yield Figure("Nodules", f"{form}, {sizes[-1]:.0f} MB, peak memory", (run.peak_mb,), "MB")
        growth = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
        said = f"{form}: growth of peak memory / growth of the scan"
        yield Figure("Nodules", said, (growth,), aim=MOST, at_most=True)


def _piece(denser: int) -> tuple[npt.NDArray[np.int16], WorldFrame]:
    """A piece of a chest below air, of an adult's size, 64 planes and as many times more as is asked for."""
    chest, (row, column) = _chest()
    voxels = np.full((_PLANES * denser, *chest.shape[1:]), -1000, np.int16)
    voxels[: _CHEST * denser] = chest.repeat(denser, axis=0)
    upright = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    return voxels, WorldFrame((0.0, 0.0, 0.0), (_STEP_MM / denser, row, column), upright)


@cache
def _chest() -> tuple[npt.NDArray[np.int16], tuple[float, float]]:
    scan = draw_scan(sample_recipe(5, "standard", nodules=(4, 4), spacing_mm=(2.0, 0.8)))
    middle = len(scan.hu) // 2
    chest = scan.hu[middle : middle + _CHEST].repeat(2, axis=1).repeat(2, axis=2)
    row, column = (side * _ENLARGED / 2 for side in scan.frame.spacing[1:])
    return chest, (row, column)


def _series(folder: Path, voxels: npt.NDArray[np.int16], frame: WorldFrame) -> Path:
    write_dicom_series(folder, voxels, frame, "2.25.9")
    return folder
