"""Dense evaluation against the same classifier window by window."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.core.results import Raster
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan, grid
from medvision.engine.sinks import BlockSink, RasterSink, TableSink
from medvision.models import dense, load_model
from medvision.models.contract import TemperedSoftmax
from medvision.models.dense import dense_view
from medvision.models.split import SlidingNorm
from medvision.pipelines.dense import (
    Dense,
    DensePlan,
    check_dense,
    compare,
    compute_dense,
    dense_backend,
    plan_dense,
)
from medvision.sources.array_source import ArraySource
from medvision.sources.base import Pixels

WINDOW = 46


class MeanAndMax(nn.Module):
    """A head that no pooling layer stands for."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.score = nn.Linear(2 * features, 2)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.score(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1))
        return scores


def toy(padding: int = 0, head: str = "pool", channels: int = 1) -> nn.Module:
    """A small network of total stride 8; without padding a window of 46 px has maps of 4 x 4."""
    torch.manual_seed(3)
    trunk = [
        nn.Conv2d(channels, 6, 4, stride=2, padding=padding),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=padding),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=padding),
    ]
    heads = {
        "pool": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)],
        "mean and max": [MeanAndMax(8)],
        "layers": [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 9), nn.ReLU(), nn.Linear(9, 2)],
    }
    return nn.Sequential(*trunk, *heads[head]).eval()


def classifier(net: nn.Module, window: int = WINDOW, channels: int = 1) -> PatchModel:
    return PatchModel(
        name="toy",
        net=net,
        window=(window, window),
        spacing=None,
        normalisation=Normalisation((0.5,) * channels, (0.02,) * channels),
        output="scores",
        classes=("normal", "tumor"),
        digest="toy",
        activation=TemperedSoftmax(0.3),
        positive="tumor",
    )


def noise(rows: int, columns: int, channels: int = 1) -> ArraySource:
    """Noise on a gradient, so that windows differ."""
    random = np.random.default_rng(0)
    slope = np.add.outer(np.linspace(0, 90, rows), np.linspace(0, 60, columns))[..., None]
    pixels = random.integers(0, 100, (rows, columns, channels)) + slope
    return ArraySource(pixels.astype(np.uint8), fill=240)


def engine() -> PatchEngine:
    return PatchEngine(EngineSettings(device="cpu", batch_size=8))


def patch_wise(source: ArraySource, plan: TilePlan, model: PatchModel) -> Raster:
    return engine().run(source, plan, model, RasterSink(plan, model.classes))[0]


def planned(model: PatchModel, cells: TilePlan, mode: Dense = "fast") -> DensePlan:
    plan = plan_dense(model, cells, mode)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("stride", "block", "extent"),
    [
        (8, 60, (151, 203)), (8, 100, (151, 203)), (8, 4000, (151, 203)), (8, 100, (64, 40)),
        (4, 100, (151, 103)), (2, 100, (64, 40)), (12, 100, (151, 203)), (12, 4000, (64, 40)),
        (16, 90, (151, 203)), (24, 120, (251, 203)),
    ],
)  # fmt: skip
def test_without_padding_dense_is_patch_wise(
    stride: int, block: int, extent: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "BLOCK_PX", block)
    source, model = noise(*extent), classifier(toy())
    everything = grid(source.id, extent, model.window, (stride, stride))
    mask = np.random.default_rng(1).random(len(everything)) < 0.7
    mask[: len(mask) // 4] = False  # blocks without any cell
    cells = everything.keep(mask)
    expected = patch_wise(source, cells, model)
    got, stats, agreement = compute_dense(engine(), source, planned(model, cells, "exact"), 0.5)
    np.testing.assert_allclose(got.values, expected.values, atol=1e-5)
    assert got.spacing == expected.spacing
    assert got.extent == expected.extent
    assert expected.values[expected.coverage].std() > 0.01  # the windows do differ
    assert stats.windows == len(cells)
    assert agreement is not None
    assert agreement.largest < 1e-5


@pytest.mark.parametrize("head", ["pool", "mean and max", "layers"])
def test_any_head_is_kept_as_it_is(head: str) -> None:
    source, model = noise(90, 70), classifier(toy(head=head))
    cells = grid(source.id, (90, 70), model.window, (4, 4))
    got, _, _ = compute_dense(engine(), source, planned(model, cells, "exact"), 0.5)
    np.testing.assert_allclose(got.values, patch_wise(source, cells, model).values, atol=1e-5)


def test_the_network_itself_is_not_changed() -> None:
    model = load_model()
    before = [type(part) for part in model.net.modules()]
    view = dense_view(model)
    assert [type(part) for part in model.net.modules()] == before
    assert next(view.trunk.parameters()) is next(model.net.parameters())  # shared, not copied


class Hole(ArraySource):
    """A source of which the windows that touch one pixel cannot be decoded."""

    def read(self, box: Box, level: int = 0) -> Pixels:
        if all(a <= 90 < b for a, b in zip(box.start, box.stop, strict=True)):
            raise WindowUnreadableError("planted")
        return super().read(box, level)


def test_damage_costs_the_same_windows_as_patch_wise() -> None:
    model, source = classifier(toy()), Hole(noise(200, 200).array, fill=240)
    cells = grid(source.id, (200, 200), model.window, (8, 8))
    expected, of_patches = engine().run(source, cells, model, RasterSink(cells, model.classes))
    got, stats, _ = compute_dense(engine(), source, planned(model, cells), 0.5)
    assert 0 < len(stats.unread) < len(cells)
    assert stats.unread == of_patches.unread
    np.testing.assert_allclose(got.values, expected.values, atol=1e-5)


def test_padding_refuses_exact_and_is_measured_in_fast() -> None:
    model, source = classifier(toy(padding=1)), noise(200, 200)
    cells = grid(source.id, (200, 200), model.window, (8, 8))
    with pytest.raises(UsageError, match="3 of its layers pad their input"):
        plan_dense(model, cells, "exact")
    got, _, agreement = compute_dense(engine(), source, planned(model, cells), 0.5)
    expected = patch_wise(source, cells, model)
    assert agreement is not None
    assert agreement.windows == 64
    assert agreement.largest > 1e-4  # an honest figure, not zero
    error = np.abs(got.values - expected.values)
    assert agreement.mean == pytest.approx(error.mean(), rel=0.3)
    assert f"largest {agreement.largest:.2g}" in agreement.sentence()


def test_padding_by_a_function_is_found_by_comparison() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.net(nn.functional.pad(x, (4, 4, 4, 4)))
            return scores

    with pytest.raises(UsageError, match="depend on the rest of the window"):
        check_dense(classifier(Padded()), 8, "exact")


def test_blocks_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = classifier(toy(padding=1)), noise(400, 300)
    cells = grid(source.id, (400, 300), model.window, (8, 8))
    whole, _, _ = compute_dense(engine(), source, planned(model, cells), 0.5)
    monkeypatch.setattr(dense, "BLOCK_PX", 256)
    plan = planned(model, cells)
    assert len(plan.blocks) > 4
    parts, _, _ = compute_dense(engine(), source, plan, 0.5)
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-5)


def test_sliding_normalisation_is_that_of_the_window_around_each_place() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 24, 30) + torch.linspace(0, 5, 30)
    norm = nn.InstanceNorm2d(4, affine=True).eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.inference_mode():
        sliding = SlidingNorm(norm, (8, 6))(maps)
        assert sliding.shape == maps.shape
        for row, column in [(4, 3), (11, 20), (20, 27)]:
            window = maps[:, :, row - 4 : row + 4, column - 3 : column + 3]
            torch.testing.assert_close(
                sliding[:, :, row, column], norm(window)[:, :, 4, 3], atol=1e-4, rtol=1e-4
            )


def test_the_shipped_model_has_a_fast_view_and_no_exact_one() -> None:
    source, model = noise(200, 180, 3), load_model()
    cells = grid(source.id, (200, 180), model.window, (32, 32))
    got, _, agreement = compute_dense(engine(), source, planned(model, cells), 0.5)
    assert dense_view(model).stride == 16
    assert got.coverage.all()
    expected = patch_wise(source, cells, model)
    plainly = compare(got.channel("tumor"), expected.channel("tumor"), 0.5)
    assert agreement is not None
    assert plainly is not None
    # The windows for comparison are computed as the blocks are, the expected ones by the backend that "auto" chose.
    assert dataclasses.astuple(agreement) == pytest.approx(dataclasses.astuple(plainly), abs=1e-4)
    with pytest.raises(UsageError, match="2 of its layers normalise over the whole window"):
        check_dense(model, 32, "exact")


def test_the_head_s_share_is_that_of_torch_s_own_counter() -> None:
    import torchvision.models as zoo
    from torch.utils.flop_counter import FlopCounterMode

    view = dense_view(classifier(zoo.vgg11(num_classes=2), 64, 3))
    pixels = torch.rand(1, 3, 64, 64)
    counted = []
    for part in (view.trunk, view.head):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            pixels = part(pixels)
        counted.append(counter.get_total_flops())
    assert counted[1] > 0
    assert view.head_share == pytest.approx(counted[1] / sum(counted))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_networks_of_torchvision_have_dense_views(name: str) -> None:
    import torchvision.models as zoo

    torch.manual_seed(0)
    view = dense_view(classifier(zoo.get_model(name, weights=None, num_classes=2), 64, 3))
    assert view.stride == 32
    assert view.features == (2, 2)
    assert any("pad their input" in reason for reason in view.obstacles)
    with torch.inference_mode():
        pixels = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(view.head(view.trunk(pixels)).shape, view.model.net.eval()(pixels).shape)


def test_a_network_of_timm_has_a_dense_view() -> None:
    import timm

    model = classifier(timm.create_model("resnet10t", num_classes=2), 96, 3)
    assert dense_view(model).stride == 32


def test_a_split_network_scores_a_window_as_before() -> None:
    import torchvision.models as zoo

    torch.manual_seed(0)
    view = dense_view(classifier(zoo.resnet18(num_classes=2), 64, 3))
    with torch.inference_mode():
        pixels = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(view.head(view.trunk(pixels)), view.model.net.eval()(pixels))


@pytest.mark.parametrize(
    "net", [nn.Sequential(nn.Flatten(), nn.Linear(WINDOW * WINDOW, 2)), nn.TransformerEncoderLayer(46, 2)]
)
def test_networks_without_maps_are_refused_by_name(net: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"model 'toy' cannot be evaluated densely.*--dense off"):
        check_dense(classifier(net), 8, "fast")


def test_a_backend_for_windows_is_refused_for_blocks() -> None:
    assert dense_backend("auto") == dense_backend("eager") == "eager"
    with pytest.raises(UsageError, match="--backend openvino computes windows, not blocks"):
        dense_backend("openvino")


def test_a_stride_that_saves_nothing_is_refused_with_others() -> None:
    assert check_dense(classifier(toy()), 8, "off") is None
    with pytest.raises(UsageError, match=r"stride 45 takes 8 x 8 shifted passes.* 1 or 48"):
        check_dense(classifier(toy()), 45, "fast")


def test_multiplications_saved_are_counted() -> None:
    view = dense_view(classifier(toy()))
    cells = view.cells(8, (200, 200))
    rows, columns = view.block(8, cells)
    assert max(rows, columns) <= dense.BLOCK_PX
    saved = WINDOW * WINDOW * cells[0] * cells[1] / (rows * columns)
    assert view.gain(8, cells) == pytest.approx(saved, rel=0.02)
    assert view.gain(4, view.cells(4, (200, 200))) == pytest.approx(
        saved, rel=0.1
    )  # four passes, four times the cells


def test_blocks_that_do_not_hold_whole_cells_are_refused() -> None:
    cells = grid("s", (100, 100), (16, 16), (8, 8))
    with pytest.raises(UsageError, match="whole cells"):
        BlockSink(grid("s", (100, 100), (60, 60), (44, 44)), cells, TableSink(cells, ("a", "b")))


def test_agreement_of_known_scores() -> None:
    a = np.array([[0.1, 0.4, np.nan], [0.6, 0.9, 0.2]], np.float32)
    b = np.array([[0.1, 0.6, 0.5], [0.6, 0.9, np.nan]], np.float32)
    found = compare(a, b, 0.5)
    assert found is not None
    assert (found.windows, found.changed) == (4, 0.25)
    assert found.mean == pytest.approx(0.05)
    assert found.largest == pytest.approx(0.2)
    assert found.correlation == pytest.approx(np.corrcoef([0.1, 0.4, 0.6, 0.9], [0.1, 0.6, 0.6, 0.9])[0, 1])
    assert compare(np.full((2, 2), np.nan, np.float32), b[:2, :2], 0.5) is None
