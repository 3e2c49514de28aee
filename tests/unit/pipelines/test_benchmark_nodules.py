"""What the benchmark of nodule networks sets against each other is the same work; memory is the scan's own."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from medvision.core.geometry import Box
from medvision.core.world import WorldFrame
from medvision.pipelines.benchmark_figures import ratios
from medvision.pipelines.benchmark_nodule_memory import memory_figures
from medvision.pipelines.benchmark_nodules import NoduleBench, NoduleWork, nodules
from medvision.sources import read_at
from medvision.sources.write_volume import write_metaimage

FRAME = WorldFrame((0.0, 0.0, 0.0), (3.0, 2.0, 2.0), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A body with two lungs, in noise."""
    z, y, x = np.ogrid[:16, :80, :100]
    values = np.full((16, 80, 100), -1000, np.int16)
    values[np.broadcast_to(((y - 40) / 36) ** 2 + ((x - 50) / 45) ** 2 < 1, values.shape)] = 40
    for column in (28, 72):
        lung = ((y - 40) / 26) ** 2 + ((x - column) / 15) ** 2 < 1
        values[np.broadcast_to(lung & (z >= 0), values.shape)] = -850
    values += np.random.default_rng(1).integers(-40, 40, values.shape, dtype=np.int16)
    return write_metaimage(tmp_path / "scan.mhd", values, FRAME)


def test_the_network_alone_gets_the_windows_of_the_engine(scan: Path) -> None:
    with closing(NoduleBench(scan, "cpu", {})) as bench:
        for name, windows in (("faster-rcnn-vgg-slim", 2), ("nodule-cnn3d-slim", 9)):
            case = NoduleWork(name, "cpu", bench.source, bench.lungs, windows)
            batches = np.concatenate([batch.numpy() for batch in case._batches])
            assert len(batches) == len(case._plan) == windows
            for index, got in zip(case._plan.storage_order(), batches, strict=True):
                box = case._plan.box(int(index))
                assert isinstance(box, Box) and case._plan.spacing is not None
                np.testing.assert_array_equal(got, read_at(bench.source, box, case._plan.spacing))
            assert batches.std() > 0, "the windows lie in the body"


def test_both_are_measured_by_the_clock_and_by_the_processor(scan: Path) -> None:
    with closing(NoduleBench(scan, "cpu", {"nodule-cnn3d-slim": 8})) as bench:
        work, wanted = nodules(bench)
        values = {name: [run(), run()] for name, run in work.items()}
    assert list(work) == [
        "nodule-cnn3d-slim alone",
        "nodule-cnn3d-slim engine",
        "nodule-cnn3d-slim alone, processor",
        "nodule-cnn3d-slim engine, processor",
    ]
    assert all(rate > 0 for rates in values.values() for rate in rates)
    found = list(ratios(values, wanted))
    assert [figure.aim for figure in found] == [0.95, 0.95]
    assert found[1].name.endswith("processor time")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures the peak as Linux counts it")
def test_a_search_takes_no_more_than_twice_the_scan_besides_the_networks(tmp_path: Path) -> None:
    small, large, growth = memory_figures(tmp_path, "cpu", True, lambda _what: None)
    assert (small.unit, large.unit, growth.unit) == ("MB", "MB", "")
    assert large.median > small.median + 200, "a scan that is held unpacked is seen"
    assert growth.met
