"""Blended windows: against MONAI's sliding window, in any order, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.engine.blend import BlendSink, Canvas, weights_of
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan, overlapped
from medvision.engine.sinks import Windows
from medvision.sources.array_source import ArraySource

SETTINGS = EngineSettings(device="cpu", batch_size=3, readers=1)


class Edgy(nn.Module):
    """Answers that depend on where in its window a pixel lies, so that a blend shows."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Two channels."""
        ramp = torch.linspace(0, 1, windows.shape[-1])
        return torch.cat([windows + ramp, windows * ramp + windows.mean(dim=(2, 3), keepdim=True)], dim=1)


def model_of(net: nn.Module, window: tuple[int, ...]) -> PatchModel:
    """Values as they are, between -1000 and 1000."""
    return PatchModel(
        name="edgy",
        net=net,
        window=window,
        spacing=None,
        normalisation=Normalisation((0.0,), (1 / 2000,), -1000.0, 1000.0),
        output="image",
        classes=("a", "b"),
        digest="0",
        activation=lambda raw: raw,
    )


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [((41, 57), (16, 16), 0.25), ((40, 33), (16, 20), 0.5), ((19, 22, 17), (8, 8, 8), 0.5)],
)
def test_equals_monai(blend: str, shape: tuple[int, ...], window: tuple[int, ...], overlap: float) -> None:
    """The same windows with the same weights."""
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    step = tuple(int(side * (1 - overlap)) for side in window)
    source = ArraySource(values[..., None], axes="zyx"[-len(shape) :], fill=0)
    plan = overlapped(source.id, shape, window, step)
    canvas = Canvas.of(plan, 2)
    sink = BlendSink(plan, (0,) * len(shape), blend, canvas)
    PatchEngine(SETTINGS).run(source, plan, model_of(Edgy(), window), sink)

    def predictor(windows: torch.Tensor) -> torch.Tensor:
        # The engine gives 2000 (v/2000 + 1/2 - 0), which is v + 1000.
        return Edgy()(windows + 1000)

    theirs = sliding_window_inference(
        torch.from_numpy(values)[None, None], window, 2, predictor, overlap=overlap, mode=blend
    )
    assert np.abs(canvas.values - theirs[0].numpy()).max() < 2e-3  # of values around 1000
    assert sink.held == 0


def _stripes(plan: TilePlan) -> np.ndarray:
    """What window k answers: k everywhere, and k squared."""
    index = np.arange(len(plan), dtype=np.float32)
    shape = (len(plan), 2, *plan.window)
    return np.broadcast_to(
        np.stack([index, index**2], axis=1).reshape(len(plan), 2, *(1,) * len(plan.window)), shape
    )


def _give(sink: BlendSink, plan: TilePlan, order: np.ndarray, outputs: np.ndarray) -> None:
    for index in order:
        one = np.array([index])
        sink.add(Windows(one, plan.boxes[one], plan.cores[one]), outputs[one])


@pytest.mark.parametrize("blend", ["none", "constant", "gaussian"])
def test_any_order(blend: str) -> None:
    """The sums are in float64: another order is another rounding at most."""
    plan = overlapped("x", (30, 41), (12, 12), (6, 6))
    outputs = _stripes(plan)
    found = []
    for order in (np.arange(len(plan)), np.random.default_rng(3).permutation(len(plan))):
        canvas = Canvas.of(plan, 2)
        sink = BlendSink(plan, (0, 0), blend, canvas)
        _give(sink, plan, order, outputs)
        sink.finish()
        found.append(canvas.values)
    assert not np.isnan(found[0]).any()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_each_place_comes_once_and_memory_is_that_of_a_row() -> None:
    """Ten times the height is the same memory: what is complete is handed on."""
    most = []
    for rows in (60, 600):
        plan = overlapped("x", (rows, 100), (20, 20), (10, 10))
        seen = np.zeros(plan.extent, int)

        def receive(box: Box, values: np.ndarray, seen: np.ndarray = seen) -> None:
            assert values.shape == (2, *box.shape)
            seen[box.slices()] += 1

        sink = BlendSink(plan, (0, 0), "gaussian", receive)
        held = 0
        outputs = _stripes(plan)
        for index in plan.storage_order():
            _give(sink, plan, np.array([index]), outputs)
            held = max(held, sink.held)
        assert (seen == 1).all()
        most.append(held)
    assert most[0] == most[1]
    assert most[1] <= 100 * 20 * 3 * 8


def test_unread_windows() -> None:
    """Neighbours answer for what they overlap; what nobody read does not come."""
    plan = overlapped("x", (8, 24), (8, 8), (4, 4))
    canvas = Canvas.of(plan, 2)
    sink = BlendSink(plan, (0, 0), "constant", canvas)
    lost = np.array([0])
    sink.unread(Windows(lost, plan.boxes[lost], plan.cores[lost]))
    _give(sink, plan, np.arange(1, len(plan)), _stripes(plan))
    assert np.isnan(canvas.values[:, :, :4]).all()
    assert (canvas.values[0, :, 4:8] == 1).all()
    assert (canvas.values[0, :, 8:12] == 1.5).all()


def test_weights() -> None:
    """A Gaussian falls from the middle, and no corner counts for nothing."""
    found = weights_of("gaussian", (65, 33))
    assert found.shape == (65, 33)
    assert found.argmax() == 32 * 33 + 16
    assert found.min() == np.float32(1e-3)
    assert weights_of("gaussian", (64,))[31] == weights_of("gaussian", (64,))[32]


def test_wrong_use() -> None:
    """Errors name what was given."""
    plan = overlapped("x", (8, 24), (8, 8), (4, 4))
    with pytest.raises(UsageError, match="'soft'; choose one of none, constant, gaussian"):
        BlendSink(plan, (0, 0), "soft", lambda _box, _values: None)  # type: ignore[arg-type]
    sink = BlendSink(plan, (1, 1), "constant", lambda _box, _values: None)
    with pytest.raises(UsageError, match=r"outputs of \(8, 8\) are not the \(6, 6\)"):
        _give(sink, plan, np.array([0]), _stripes(plan))
    with pytest.raises(UsageError, match="no progress"):
        sink.state()
