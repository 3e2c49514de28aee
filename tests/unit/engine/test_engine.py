"""The engine on models whose right answer is known exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medvision.core.errors import DeviceError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, Job, PatchEngine
from medvision.engine.plan import TilePlan, around, grid, rois, whole
from medvision.engine.sinks import ImageSink, ObjectSink, RasterSink, TableSink
from medvision.sources.array_source import ArraySource
from medvision.sources.base import Pixels

AXES = {1: "x", 2: "yx", 3: "zyx"}


def unit_model(
    window: tuple[int, ...], net: nn.Module, channels: int = 1, output: str = "image"
) -> PatchModel:
    """A model that sees the raw values 0..255."""
    scale = (1 / 255,) * channels
    return PatchModel(
        name="unit",
        net=net,
        window=window,
        spacing=None,
        normalisation=Normalisation((0.0,) * channels, scale),
        output=output,  # type: ignore[arg-type]
        classes=(),
        digest="unit",
        activation=lambda x: x,
    )


def engine(**options: int | str) -> PatchEngine:
    return PatchEngine(EngineSettings(device="cpu", **options))  # type: ignore[arg-type]


class EdgeDistance(nn.Module):
    """For each pixel, its distance to the border of the window: any seam shows at once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        rows = torch.minimum(torch.arange(height), torch.arange(height).flip(0))
        columns = torch.minimum(torch.arange(width), torch.arange(width).flip(0))
        return torch.minimum(rows[:, None], columns[None]).float().expand(x.shape[0], 1, -1, -1)


class Mean(nn.Module):
    """One score per window: its mean value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).mean(1, keepdim=True)


class Hoarder(nn.Module):
    """Fails as a device out of memory does, above a number of windows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("planted")
        return x.flatten(1).mean(1, keepdim=True)


class Holes(ArraySource):
    """A source of which the windows that touch one pixel cannot be decoded."""

    hole = (20, 26)

    def read(self, box: Box, level: int = 0) -> Pixels:
        if all(a <= h < b for a, h, b in zip(box.start, self.hole, box.stop, strict=True)):
            raise WindowUnreadableError("planted")
        return super().read(box, level)


def noise(shape: tuple[int, ...], channels: int = 1, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*shape, channels), dtype=np.uint8)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), axes=st.integers(1, 3))
def test_an_identity_model_gives_the_source_back(data: st.DataObject, axes: int) -> None:
    most = {1: 200, 2: 60, 3: 18}[axes]
    extent = tuple(data.draw(st.integers(1, most)) for _ in range(axes))
    stride = tuple(data.draw(st.integers(1, 20)) for _ in range(axes))
    window = tuple(s + 2 * data.draw(st.integers(0, 5)) + data.draw(st.integers(0, 1)) for s in stride)
    channels = data.draw(st.integers(1, 3))
    source = ArraySource(noise(extent, channels), AXES[axes], fill=0)
    plan = grid(source.id, extent, window, stride)
    batch, readers = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    model = unit_model(window, nn.Identity(), channels)
    image, stats = engine(batch_size=batch, readers=readers).run(
        source, plan, model, ImageSink(plan, channels)
    )
    np.testing.assert_allclose(image, source.array, atol=1e-3)
    assert stats.windows == len(plan)
    assert stats.unread == ()


@settings(deadline=None, max_examples=40)
@given(data=st.data(), axes=st.integers(1, 3))
def test_cores_partition_the_extent(data: st.DataObject, axes: int) -> None:
    extent = tuple(data.draw(st.integers(1, 20)) for _ in range(axes))
    window = tuple(data.draw(st.integers(1, 25)) for _ in range(axes))
    stride = tuple(data.draw(st.integers(1, w)) for w in window)
    plan = grid("s", extent, window, stride)
    owners = np.zeros(extent, int)
    for index in range(len(plan)):
        owners[plan.core(index).slices()] += 1
        assert plan.core(index).intersect(plan.box(index)) == plan.core(index)
    assert (owners == 1).all()


def test_no_window_border_shows_inside_a_halo() -> None:
    source = ArraySource(noise((100, 90)))
    plan = grid(source.id, (100, 90), (32, 32), (16, 16))
    image, _ = engine(batch_size=5).run(
        source, plan, unit_model((32, 32), EdgeDistance()), ImageSink(plan, 1)
    )
    assert image.min() == 8  # every pixel comes from at least the halo away from its window's border


def test_an_output_smaller_than_its_window_is_taken_as_its_centre() -> None:
    source = ArraySource(noise((50, 40)), fill=0)
    plan = grid(source.id, (50, 40), (20, 20), (10, 10))
    image, _ = engine().run(source, plan, unit_model((20, 20), nn.AvgPool2d(3, 1)), ImageSink(plan, 1))
    padded = np.pad(source.array[..., 0].astype(float), 1)
    expected = sum(padded[r : r + 50, c : c + 40] for r in range(3) for c in range(3)) / 9
    np.testing.assert_allclose(image[..., 0], expected, rtol=1e-5)


def test_an_output_that_misses_its_core_is_an_error() -> None:
    source = ArraySource(noise((50, 40)))
    plan = grid(source.id, (50, 40), (20, 20))
    with pytest.raises(UsageError, match="halo"):
        engine().run(source, plan, unit_model((20, 20), nn.AvgPool2d(3, 1)), ImageSink(plan, 1))


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 7, "readers": 4}, {"buffers": 2}])
def test_results_do_not_depend_on_batch_readers_or_buffers(options: dict[str, int]) -> None:
    source = ArraySource(noise((200, 170)))
    plan = grid(source.id, (200, 170), (16, 16), (9, 9))
    model = unit_model((16, 16), Mean())
    expected, _ = engine().run(source, plan, model, RasterSink(plan, ("mean",)))
    got, _ = engine(**options).run(source, plan, model, RasterSink(plan, ("mean",)))
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-6)


def test_results_do_not_depend_on_the_order_of_windows() -> None:
    source = ArraySource(noise((90, 70)))
    plan = grid(source.id, (90, 70), (16, 16), (9, 9))
    turn = np.random.default_rng(1).permutation(len(plan))
    assert plan.cells is not None
    turned = TilePlan(
        plan.source_id,
        None,
        plan.extent,
        plan.window,
        plan.boxes[turn],
        plan.cores[turn],
        plan.lattice,
        plan.cells[turn],
    )
    model = unit_model((16, 16), Mean())
    a, _ = engine().run(source, plan, model, RasterSink(plan, ("mean",)))
    b, _ = engine().run(source, turned, model, RasterSink(turned, ("mean",)))
    np.testing.assert_array_equal(a.values, b.values)


def test_windows_left_out_and_windows_unread_are_nan_and_never_zero() -> None:
    source = Holes(noise((64, 64)))
    plan = grid(source.id, (64, 64), (8, 8))
    kept = plan.keep(np.arange(len(plan)) % 3 != 0)
    raster, stats = engine(batch_size=6).run(
        source, kept, unit_model((8, 8), Mean()), RasterSink(kept, ("mean",))
    )
    hole = 2 * 8 + 3
    expected = {hole, *range(0, 64, 3)}
    assert set(np.flatnonzero(~raster.coverage.ravel())) == expected
    assert len(stats.unread) == 1
    clean = source.array.reshape(8, 8, 8, 8).mean((1, 3)).ravel()
    seen = raster.coverage.ravel()
    np.testing.assert_allclose(raster.values.ravel()[seen], clean[seen], rtol=1e-5)


def test_a_batch_of_only_unreadable_windows_is_survived() -> None:
    source = Holes(noise((64, 64)))
    plan = rois(source.id, (64, 64), [Box((18, 22), (26, 30))] * 3)
    table, stats = engine().run(source, plan, unit_model((8, 8), Mean()), TableSink(plan, ("mean",)))
    assert np.isnan(table.columns["mean"]).all()
    assert stats.unread == (0, 1, 2)


def test_what_a_batch_needs_is_asked_for_before_it_is_read() -> None:
    class Asked(ArraySource):
        asked: set[Box]

        def fetch_ahead(self, box: Box, level: int = 0) -> None:
            assert level == 0
            self.asked.add(box)

        def read(self, box: Box, level: int = 0) -> Pixels:
            assert box in self.asked
            return super().read(box, level)

    source = Asked(
        np.arange(48 * 64, dtype=np.uint8).reshape(48, 64, 1).repeat(3, 2), spacing=Spacing((0.5, 0.5))
    )
    source.asked = set()
    model = replace(unit_model((16, 16), Mean(), channels=3, output="scores"), spacing=Spacing((0.5, 0.5)))
    plan = grid(source.id, (48, 64), (16, 16), spacing=Spacing((0.5, 0.5)))
    engine(batch_size=4).run(source, plan, model, TableSink(plan, ("mean",)))
    assert len(source.asked) == 12


def test_out_of_memory_halves_the_batch_and_records_it() -> None:
    source = ArraySource(noise((64, 64)))
    plan = grid(source.id, (64, 64), (8, 8))
    expected, _ = engine().run(source, plan, unit_model((8, 8), Mean()), RasterSink(plan, ("m",)))
    got, stats = engine(batch_size=32).run(
        source, plan, unit_model((8, 8), Hoarder(5)), RasterSink(plan, ("m",))
    )
    assert stats.batch_size == 4
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-6)


def test_out_of_memory_at_one_window_is_not_hidden() -> None:
    source = ArraySource(noise((64, 64)))
    plan = grid(source.id, (64, 64), (8, 8))
    with pytest.raises(DeviceError, match="cpu: unit: planted"):
        engine(batch_size=8).run(source, plan, unit_model((8, 8), Hoarder(0)), RasterSink(plan, ("m",)))


class Interrupting(Mean):
    """Stops the run at a batch, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().forward(x)


def test_an_interrupted_run_continues_and_ends_with_the_same_values(tmp_path: Path) -> None:
    source = Holes(noise((128, 128)))
    plan = grid(source.id, (128, 128), (8, 8))
    expected, clean = engine(batch_size=8).run(
        source, plan, unit_model((8, 8), Mean()), RasterSink(plan, ("m",))
    )
    saved = tmp_path / "progress.npz"
    with pytest.raises(KeyboardInterrupt):
        engine(batch_size=8).run(
            source, plan, unit_model((8, 8), Interrupting(20)), RasterSink(plan, ("m",)), saved
        )
    counter = Interrupting(10**6)
    got, stats = engine(batch_size=8).run(
        source, plan, unit_model((8, 8), counter), RasterSink(plan, ("m",)), saved
    )
    assert stats.resumed >= 17 * 8
    assert counter.calls <= 32 - 17
    assert stats.unread == clean.unread
    np.testing.assert_array_equal(got.values, expected.values)


class Passing(ArraySource):
    """A source whose first windows cannot be read until the fault has passed."""

    healthy = False

    def read(self, box: Box, level: int = 0) -> Pixels:
        if not self.healthy and box.start[0] < 40:
            raise WindowUnreadableError("planted")
        return super().read(box, level)


def test_windows_unread_before_a_restart_are_tried_again(tmp_path: Path) -> None:
    source = Passing(noise((128, 128)))
    plan = grid(source.id, (128, 128), (8, 8))
    saved = tmp_path / "progress.npz"
    with pytest.raises(KeyboardInterrupt):
        engine(batch_size=8).run(
            source, plan, unit_model((8, 8), Interrupting(20)), RasterSink(plan, ("m",)), saved
        )
    source.healthy = True
    got, stats = engine(batch_size=8).run(
        source, plan, unit_model((8, 8), Mean()), RasterSink(plan, ("m",)), saved
    )
    assert stats.unread == ()
    assert stats.resumed > 0
    assert got.coverage.all()


def test_a_checkpoint_of_another_plan_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    source = ArraySource(noise((128, 128)))
    saved = tmp_path / "progress.npz"
    plan = grid(source.id, (128, 128), (8, 8))
    with pytest.raises(KeyboardInterrupt):
        engine(batch_size=8).run(
            source, plan, unit_model((8, 8), Interrupting(20)), RasterSink(plan, ("m",)), saved
        )
    other = plan.keep(np.arange(len(plan)) > 3)
    _, stats = engine(batch_size=8).run(
        source, other, unit_model((8, 8), Mean()), RasterSink(other, ("m",)), saved
    )
    assert stats.resumed == 0
    saved.write_bytes(saved.read_bytes()[:100])
    _, stats = engine(batch_size=8).run(
        source, plan, unit_model((8, 8), Mean()), RasterSink(plan, ("m",)), saved
    )
    assert stats.resumed == 0


class Blobs(nn.Module):
    """Finds the bright pixels of each window, as boxes of one pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def find_bright(x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    found = []
    for image in x[:, 0]:
        at = (image > 254).nonzero().float()
        boxes = torch.stack([at, at + 1], dim=1)
        found.append({"boxes": boxes, "scores": torch.ones(len(at)), "labels": torch.zeros(len(at))})
    return found


def test_each_object_is_kept_once_whatever_the_overlap() -> None:
    image = np.zeros((64, 80, 1), np.uint8)
    truth = {(3, 4), (15, 16), (16, 15), (31, 70), (63, 79), (0, 0)}
    for row, column in truth:
        image[row, column] = 255
    source = ArraySource(image, fill=0)
    plan = grid(source.id, (64, 80), (32, 32), (16, 16))
    model = unit_model((32, 32), Blobs(), output="objects")
    object.__setattr__(model, "activation", find_bright)
    found, _ = engine(batch_size=3).run(source, plan, model, ObjectSink(plan))
    assert sorted(tuple(int(v) for v in box[0]) for box in found.boxes) == sorted(truth)


def test_a_source_without_any_object_gives_none() -> None:
    source = ArraySource(np.zeros((64, 80, 1), np.uint8), fill=0)
    plan = grid(source.id, (64, 80), (32, 32))
    model = unit_model((32, 32), Blobs(), output="objects")
    object.__setattr__(model, "activation", find_bright)
    found, _ = engine(batch_size=3).run(source, plan, model, ObjectSink(plan))
    assert found.boxes.shape == (0, 2, 2)
    assert found.scores.shape == found.labels.shape == (0,)


def test_many_small_jobs_share_batches() -> None:
    sources = [ArraySource(noise((8, 8), seed=k)) for k in range(25)]
    calls = Interrupting(10**6)

    def jobs() -> list[Job[object]]:
        return [
            Job(s, p, TableSink(p, ("m",)), label=k)
            for k, s in enumerate(sources)
            for p in [whole(s.id, (8, 8))]
        ]

    got = list(engine(batch_size=10).run_many(jobs(), unit_model((8, 8), calls), pack=True))
    assert calls.calls == 3
    assert [job.label for job, _, _ in got] == list(range(25))
    means = [float(table.columns["m"][0]) for _, table, _ in got]  # type: ignore[attr-defined]
    np.testing.assert_allclose(means, [s.array.mean() for s in sources], rtol=1e-5)


def test_jobs_are_opened_only_when_their_turn_comes() -> None:
    opened: list[int] = []

    def jobs():  # type: ignore[no-untyped-def]
        for k in range(20):
            opened.append(k)
            source = ArraySource(noise((64, 64), seed=k))
            plan = grid(source.id, (64, 64), (8, 8))
            yield Job(source, plan, TableSink(plan, ("m",)))

    run = engine(batch_size=8, buffers=3).run_many(jobs(), unit_model((8, 8), Mean()))
    next(run)
    assert len(opened) <= 3
    run.close()


def test_a_job_without_windows_still_yields_its_result() -> None:
    source = ArraySource(noise((16, 16)))
    plan = grid(source.id, (16, 16), (8, 8)).keep(np.zeros(4, bool))
    raster, stats = engine().run(source, plan, unit_model((8, 8), Mean()), RasterSink(plan, ("m",)))
    assert not raster.coverage.any()
    assert stats.windows == 0


def test_wrong_windows_channels_and_spacings_are_refused() -> None:
    source = ArraySource(noise((16, 16)))
    plan = grid(source.id, (16, 16), (8, 8))
    with pytest.raises(UsageError, match="window"):
        engine().run(source, plan, unit_model((4, 4), Mean()), TableSink(plan, ("m",)))
    with pytest.raises(UsageError, match="channels"):
        engine().run(source, plan, unit_model((8, 8), Mean(), channels=3), TableSink(plan, ("m",)))
    spaced = grid(source.id, (16, 16), (8, 8), spacing=Spacing((0.5, 0.5)))
    model = unit_model((8, 8), Mean())
    object.__setattr__(model, "spacing", Spacing((0.25, 0.25)))
    with pytest.raises(UsageError, match=r"0\.25"):
        engine().run(source, spaced, model, TableSink(spaced, ("m",)))


def test_unknown_devices_and_precisions_name_the_choices() -> None:
    with pytest.raises(UsageError, match="cpu"):
        PatchEngine(EngineSettings(device="tpu"))
    source = ArraySource(noise((16, 16)))
    plan = grid(source.id, (16, 16), (8, 8))
    with pytest.raises(UsageError, match="float32"):
        engine(precision="float8").run(source, plan, unit_model((8, 8), Mean()), TableSink(plan, ("m",)))


def test_windows_around_points_are_centred() -> None:
    plan = around("s", (50, 50), np.array([[10.0, 20.0], [0.0, 49.0]]), (4, 6))
    assert plan.box(0) == Box((8, 17), (12, 23))
    assert plan.core(1) == Box((0, 46), (2, 50))
