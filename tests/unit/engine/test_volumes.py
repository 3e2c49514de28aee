"""The engine over volumes: cubes on a grid and around points, Hounsfield units, one result whatever the way."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.core.world import WorldFrame
from medvision.engine.backends import prepare
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, Job, PatchEngine
from medvision.engine.plan import TilePlan, around, grid
from medvision.engine.sinks import ImageSink, ObjectSink, RasterSink, TableSink
from medvision.sources import extent_at, read_at
from medvision.sources.array_source import ArraySource

NATIVE = (2.5, 0.8, 0.8)
MM = Spacing((1.0, 1.0, 1.0), "mm")
LOW, HIGH = -1000.0, 400.0


def scan(dtype: str = "int16", seed: int = 0) -> ArraySource:
    values = np.random.default_rng(seed).integers(-1500, 1500, (12, 30, 35, 1)).astype(dtype)
    return ArraySource(values, "zyx", Spacing(NATIVE, "mm"), fill=-1000)


def lung_model(
    window: tuple[int, ...], net: nn.Module, output: str = "scores", **options: object
) -> PatchModel:
    """A model that sees Hounsfield units of the lung window as 0..1."""
    made = PatchModel(
        name="lung", net=net, window=window, spacing=MM, normalisation=Normalisation((0.0,), (1.0,), LOW, HIGH),
        output=output, classes=("mean",), digest="lung", activation=lambda x: x,  # type: ignore[arg-type]
    )  # fmt: skip
    return replace(made, **options)


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).mean(1, keepdim=True)


class Brightest(nn.Module):
    """One object a window: a cube of three voxels around its brightest."""

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        found = []
        for cube in x[:, 0]:
            at = torch.stack(torch.unravel_index(cube.argmax(), cube.shape)).float()
            boxes = torch.stack([at - 1, at + 2])[None]
            found.append({"boxes": boxes, "scores": cube.max()[None], "labels": torch.zeros(1)})
        return found


def engine(**options: object) -> PatchEngine:
    return PatchEngine(EngineSettings(device="cpu", **options))  # type: ignore[arg-type]


def cubes(source: ArraySource, count: int = 23, side: int = 8) -> TilePlan:
    extent = extent_at(source, MM)
    points = np.random.default_rng(3).uniform(-3, np.array(extent) + 3, (count, 3))
    return around(source.id, extent, points, (side,) * 3, MM)


def expected(source: ArraySource, plan: TilePlan) -> np.ndarray:
    """The mean of each cube in the lung window, by read_at alone."""
    found = []
    for index in range(len(plan)):
        values = read_at(source, plan.box(index), MM).astype(np.float64)
        found.append(np.clip((values - LOW) / (HIGH - LOW), 0, 1).mean())
    return np.array(found)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_cubes_around_points_at_another_spacing(dtype: str):
    source = scan(dtype)
    plan = cubes(source)
    model = lung_model((8, 8, 8), Mean())
    table, stats = engine(batch_size=5).run(source, plan, model, TableSink(plan, ("mean",)))
    np.testing.assert_allclose(table.columns["mean"], expected(source, plan), atol=1e-5)
    assert stats.unread == ()


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 7, "readers": 4}, {"batch_size": 64, "buffers": 2}]
)
def test_the_result_is_the_same_for_any_batch_readers_and_buffers(options: dict[str, int]):
    source = scan()
    plan = grid(source.id, extent_at(source, MM), (8, 8, 8), (5, 6, 7), MM)
    model = lung_model((8, 8, 8), Mean())
    one, _ = engine(batch_size=16, readers=1).run(source, plan, model, RasterSink(plan, ("mean",)))
    two, _ = engine(**options).run(source, plan, model, RasterSink(plan, ("mean",)))
    np.testing.assert_allclose(one.values, two.values, rtol=1e-6)
    assert one.values.shape == (6, 4, 4, 1)
    assert one.spacing == Spacing((5.0, 6.0, 7.0), "mm")


def test_the_result_is_the_same_for_any_order_of_windows():
    source = scan()
    plan = cubes(source)
    turn = np.random.default_rng(1).permutation(len(plan))
    other = replace(plan, boxes=plan.boxes[turn], cores=plan.cores[turn])
    model = lung_model((8, 8, 8), Mean())
    a, _ = engine(batch_size=4).run(source, plan, model, TableSink(plan, ("mean",)))
    b, _ = engine(batch_size=4).run(source, other, model, TableSink(other, ("mean",)))
    np.testing.assert_array_equal(a.columns["mean"][turn], b.columns["mean"])


def test_an_interrupted_run_continues_to_the_same_result(tmp_path: Path):
    class Failing(ArraySource):
        left = 3

        def read(self, box: Box, level: int = 0) -> np.ndarray:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().read(box, level)

    whole = scan()
    source = Failing(whole.array, "zyx", whole.spacing, fill=-1000)
    plan = cubes(whole)
    model = lung_model((8, 8, 8), Mean())
    runner = engine(batch_size=2, readers=1, buffers=2)
    checkpoint = tmp_path / "progress.npz"
    with pytest.raises(KeyboardInterrupt):
        runner.run(source, plan, model, TableSink(plan, ("mean",)), checkpoint)
    table, stats = runner.run(whole, plan, model, TableSink(plan, ("mean",)), checkpoint)
    np.testing.assert_allclose(table.columns["mean"], expected(whole, plan), atol=1e-5)
    assert stats.windows == len(plan)


def test_a_grid_with_halo_gives_the_resampled_volume_back():
    source = scan()
    extent = extent_at(source, MM)
    plan = grid(source.id, extent, (10, 10, 10), (6, 6, 6), MM)
    model = lung_model(
        (10, 10, 10), nn.Identity(), "image", normalisation=Normalisation((0.0,), (1.0,), -2000, 2000)
    )
    image, _ = engine(batch_size=3).run(source, plan, model, ImageSink(plan, 1))
    whole = read_at(source, Box((0, 0, 0), extent), MM)
    np.testing.assert_allclose(image * 4000 - 2000, whole, atol=1e-2)


def test_objects_of_cubes_have_their_place_in_the_patient():
    """A bright voxel is found through grid, engine and sink, and its world coordinates are those it was put at."""
    frame = WorldFrame((-30.0, -20.0, 10.0), NATIVE, ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    source = scan()
    source.array[:] = -900
    source.array[7, 12, 21] = 3000
    plan = grid(source.id, extent_at(source, MM), (12, 12, 12), (8, 8, 8), MM)
    model = lung_model(
        (12, 12, 12), Brightest(), "objects", normalisation=Normalisation((0.0,), (1.0,), LOW, 3000)
    )
    found, _ = engine(batch_size=4).run(source, plan, model, ObjectSink(plan))
    best = found.boxes[0].mean(axis=0)
    world = frame.at(MM.values).to_world(best)
    np.testing.assert_allclose(world, frame.to_world((7.5, 12.5, 21.5)), atol=1.0)
    assert np.sum(found.scores > 0.2) == 1  # its brightness is shared out by the resampling


def test_a_candidate_of_world_millimetres_becomes_the_cube_centred_on_it():
    frame = WorldFrame((-30.0, -20.0, 10.0), NATIVE, ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    source = scan()
    points = frame.at(MM.values).to_voxels([(-20.0, -10.0, 25.0)])
    plan = around(source.id, extent_at(source, MM), points, (5, 5, 5), MM)
    # The corner of the volume lies half a voxel before the first centre: z 8.75, y -20.4, x -30.4.
    assert plan.box(0) == Box.at((14, 8, 8), (5, 5, 5))
    assert plan.cores[0].tolist() == plan.boxes[0].tolist()


def test_cubes_that_cannot_be_read_are_unread_and_the_rest_stays():
    class Hole(ArraySource):
        def read(self, box: Box, level: int = 0) -> np.ndarray:
            if box.start[0] <= 5 < box.stop[0]:
                raise WindowUnreadableError("planted")
            return super().read(box, level)

    whole = scan()
    source = Hole(whole.array, "zyx", whole.spacing, fill=-1000)
    plan = cubes(whole)
    table, stats = engine(batch_size=4).run(
        source, plan, lung_model((8, 8, 8), Mean()), TableSink(plan, ("mean",))
    )
    assert 0 < len(stats.unread) < len(plan)
    lost = np.isnan(table.columns["mean"])
    assert set(np.flatnonzero(lost)) == set(stats.unread)
    np.testing.assert_allclose(table.columns["mean"][~lost], expected(whole, plan)[~lost], atol=1e-5)


def test_packed_batches_keep_types_apart():
    sources = [scan("int16"), scan("float32", 1), scan("int16", 2)]
    jobs = []
    for source in sources:
        plan = cubes(source, 3)
        jobs.append(Job(source, plan, TableSink(plan, ("mean",))))
    model = lung_model((8, 8, 8), Mean())
    for job, table, _ in engine(batch_size=16).run_many(jobs, model, pack=True):
        np.testing.assert_allclose(table.columns["mean"], expected(job.source, job.plan), atol=1e-5)


def test_wrong_pairs_of_plan_model_and_source_are_refused():
    source = scan()
    plan = cubes(source)
    bytes_only = lung_model((8, 8, 8), Mean(), normalisation=Normalisation((0.0,), (1.0,)))
    with pytest.raises(UsageError, match=r"values are int16, but 'lung' takes bytes"):
        engine().run(source, plan, bytes_only, TableSink(plan, ("mean",)))
    other = lung_model((8, 8, 8), Mean(), spacing=Spacing((2.0, 1.0, 0.5), "mm"))  # its mean is the plan's
    with pytest.raises(UsageError, match="wants"):
        engine().run(source, plan, other, TableSink(plan, ("mean",)))
    with pytest.raises(ValueError, match="empty"):
        Normalisation((0.0,), (1.0,), 5, 5)


@pytest.mark.parametrize("backend", ["eager", "fused", "onnxruntime", "openvino"])
def test_every_backend_windows_hounsfield_units(backend: str):
    # Not importorskip: OpenVINO must not be imported before the package has seen to its telemetry.
    if backend in ("onnxruntime", "openvino") and importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    )
    model = lung_model((8, 8, 8), net.eval(), classes=("a", "b", "c"))
    batch = torch.from_numpy(np.random.default_rng(0).integers(-3000, 3000, (4, 8, 8, 8, 1)).astype(np.int16))
    runner = prepare(model, torch.device("cpu"), backend, "float32")
    placed = ((batch.double() - LOW) / (HIGH - LOW)).clamp(0, 1).permute(0, 4, 1, 2, 3).float()
    with torch.inference_mode():
        np.testing.assert_allclose(runner(batch).numpy(), net(placed).numpy(), atol=1e-5)
