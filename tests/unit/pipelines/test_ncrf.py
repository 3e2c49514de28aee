"""An NCRF's heatmap from embeddings computed once, beside the definition, patch by patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.engine.contract import PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan, grid
from medvision.engine.sinks import RasterSink
from medvision.models import load_model
from medvision.models.catalogue import as_patch_model
from medvision.models.contract import CellGrid, WeightsContract
from medvision.models.ncrf import NcrfClassifier, build_ncrf
from medvision.models.turns import TurnedNet, turn, with_turns
from medvision.models.weights import write_weights
from medvision.ops.nms import peaks, radius_in_cells
from medvision.pipelines.analyze import analyze_slide
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.configured import check_config, configured_model
from medvision.pipelines.heatmap import compute_heatmap, gain_of, stride_px, units_of
from medvision.pipelines.ncrf import LatticePlan, plan_lattice
from medvision.sources import open_source
from medvision.sources.array_source import ArraySource
from medvision.sources.base import Pixels
from medvision.sources.write import read_raster
from medvision.synthetic import SlideRecipe, write_synthetic_slide

SMALL = CellGrid(cell_px=40, crop_px=32, stride_px=10)


def said(grid_: CellGrid, spacing_um: float = 1.0) -> WeightsContract:
    return WeightsContract(
        architecture="ncrf-slim",
        classes=("normal", "tumor"),
        window_px=grid_.window_px,
        spacing_um=spacing_um,
        temperature=1.3,
        isotonic=None,
        grid=grid_,
    )


def model_of(grid_: CellGrid = SMALL, seed: int = 3) -> PatchModel:
    """A small NCRF with weights that make neighbours matter."""
    torch.manual_seed(seed)
    net = build_ncrf("slim", grid_.crf)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.3
            module.running_var = 0.5 + torch.rand(module.num_features)
    net.cell.head.weight.data *= 20  # so that cells differ as they do with trained weights
    if net.crf is not None:
        net.crf.W.data = 0.6 * torch.randn(1, 9, 9)
    return as_patch_model("ncrf-slim", NcrfClassifier(net, grid_), said(grid_))


def picture(rows: int, columns: int, source: type[ArraySource] = ArraySource) -> ArraySource:
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (rows // 8 + 1, columns // 8 + 1, 3)).astype(np.uint8)
    array = coarse.repeat(8, axis=0).repeat(8, axis=1)[:rows, :columns]
    return source(array, spacing=Spacing((1.0, 1.0)), fill=240)


def engine(**settings: Any) -> PatchEngine:
    return PatchEngine(
        EngineSettings(device="cpu", batch_size=8, precision="float32", backend="eager", **settings)
    )


def cells_of(source: ArraySource, model: PatchModel, stride: int, share: float = 0.4) -> TilePlan:
    """A lattice with gaps, as tissue leaves it."""
    extent = source.array.shape[:2]
    plan = grid(source.id, (extent[0], extent[1]), model.window, (stride, stride), Spacing((1.0, 1.0)))
    return plan.keep(np.random.default_rng(1).random(len(plan)) < share)


def both(
    model: PatchModel, source: ArraySource, cells: TilePlan
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    by_definition, _ = engine().run(source, cells, model, RasterSink(cells, model.columns))
    at_once, stats = compute_heatmap(engine(), source, cells, engine().prepare(model))
    assert (stats.windows, stats.unread) == (len(cells), ())
    assert at_once.spacing == by_definition.spacing
    return by_definition.values, at_once.values


def planned(model: PatchModel, cells: TilePlan) -> LatticePlan:
    plan = plan_lattice(model, cells)
    assert plan is not None
    return plan


@pytest.mark.parametrize("stride", [10, 20, 40])
def test_each_embedding_once_equals_the_definition(stride: int) -> None:
    model, source = model_of(), picture(113, 141)
    cells = cells_of(source, model, stride)
    expected, got = both(model, source, cells)
    assert np.nanmax(expected[..., 1]) - np.nanmin(expected[..., 1]) > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-5)  # NaN in the same places too


def test_neighbours_matter_in_these_tests() -> None:
    model, source = model_of(), picture(113, 141)
    assert isinstance(model.net, NcrfClassifier) and model.net.ncrf.crf is not None
    cells = cells_of(source, model, 20)
    _, with_crf = both(model, source, cells)
    model.net.ncrf.crf.W.data.zero_()
    _, without = both(model, source, cells)
    assert np.nanmax(np.abs(with_crf - without)) > 0.02


def test_the_eight_orientations_equal_the_definition_on_turned_regions() -> None:
    plain, source = model_of(), picture(60, 70)
    model = with_turns(plain)
    cells = cells_of(source, model, 20, share=0.7)
    expected, got = both(model, source, cells)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    box = cells.box(7)
    region = torch.from_numpy(source.read(box).copy())[None]
    turned = [turn(region.permute(0, 3, 1, 2), k).permute(0, 2, 3, 1).contiguous() for k in range(8)]
    with torch.inference_mode():
        mean = torch.stack([plain(image)[0] for image in turned]).mean(0)  # type: ignore[index]
    assert cells.cells is not None and cells.lattice is not None
    place = np.unravel_index(int(cells.cells[7]), cells.lattice.shape)
    np.testing.assert_allclose(got[place][:2], mean.numpy(), atol=1e-5)
    assert model.digest != plain.digest


def test_a_turn_of_eight_is_each_orientation_once() -> None:
    image = torch.arange(9).reshape(3, 3)
    assert len({tuple(turn(image, k).flatten().tolist()) for k in range(8)}) == 8


def test_the_network_sees_each_crop_once() -> None:
    model, source = model_of(), picture(400, 400)
    extent = (400, 400)
    cells = grid(source.id, extent, model.window, (10, 10), Spacing((1.0, 1.0)))
    plan = planned(model, cells)
    assert len(plan.crops) == len(np.unique(plan.crops.boxes.reshape(-1, 4), axis=0)) == (40 + 8) ** 2
    assert len(np.unique(plan.neighbours)) == len(plan.crops)
    assert plan.gain == pytest.approx(9 * 1600 / 2304)
    assert plan.gain > 5
    assert units_of(model, cells) == len(plan.crops)
    assert gain_of(model, cells) == plan.gain
    done: list[int] = []
    counted = PatchEngine(EngineSettings(device="cpu", backend="eager"), done.append)
    few = cells_of(source, model, 40, share=0.5)
    compute_heatmap(counted, source, few, counted.prepare(model))
    assert sum(done) == len(planned(model, few).crops)


def test_the_published_stride_and_cells_take_five_times_fewer_crops() -> None:
    published = CellGrid(cell_px=256, crop_px=224, stride_px=64)
    model = model_of(published)
    cells = grid("id", (6400, 9600), model.window, (64, 64), Spacing((1.0, 1.0)))
    rows, columns = np.unravel_index(np.arange(len(cells)), (100, 150))
    disc = np.hypot(rows - 50, columns - 75) < 40  # tissue of 5 mm at 0.25 µm/px is more than twice as wide
    assert planned(model, cells.keep(disc)).gain > 6
    assert 9 / planned(model, cells).gain < 1.15


class Hole(ArraySource):
    """Reading across (90, 90) fails."""

    def read(self, box: Box, level: int = 0) -> Pixels:
        if all(a <= 90 < b for a, b in zip(box.start, box.stop, strict=True)):
            raise WindowUnreadableError("planted")
        return super().read(box, level)


def test_an_unread_neighbour_is_left_out_and_an_unread_cell_is_nan() -> None:
    model, source = model_of(), picture(200, 200, Hole)
    assert isinstance(model.net, NcrfClassifier)
    cells = cells_of(source, model, 20, share=1.1)
    plan = planned(model, cells)
    raster, stats = compute_heatmap(engine(), source, cells, engine().prepare(model))
    inside = ((plan.crops.boxes[:, 0] <= 90) & (plan.crops.boxes[:, 1] > 90)).all(axis=1)
    lost = inside[plan.neighbours[:, 4]]
    assert 0 < lost.sum() < len(cells)
    assert stats.unread == tuple(np.flatnonzero(lost))
    flat = raster.values.reshape(-1, 2)
    np.testing.assert_array_equal(np.isnan(flat[:, 1]), lost)
    # A cell beside the hole: the CRF over those of its nine crops that can be read.
    touched = np.flatnonzero(~lost & inside[plan.neighbours].any(axis=1))[0]
    kept = ~inside[plan.neighbours[touched]]
    clean = ArraySource(source.array, spacing=source.spacing, fill=240)
    crops = [clean.read(plan.crops.box(int(k))) for k in plan.neighbours[touched]]
    small = PatchModel(
        "crops",
        model.net,
        (32, 32),
        model.spacing,
        model.normalisation,
        "scores",
        model.classes,
        "",
        model.activation,
    )
    crf = model.net.ncrf.crf
    assert crf is not None
    with torch.inference_mode():
        found = model.net.ncrf.cell(small.prepare(torch.from_numpy(np.stack(crops))))[kept][None]
        index = torch.from_numpy(np.flatnonzero(kept))
        part = type(crf)(int(kept.sum()))
        part.W.data = crf.W[:, index][:, :, index]
        logit = part(found[:, :, :-1], found[:, :, -1])[0, int((index == 4).nonzero())]
    expected = torch.sigmoid(logit / 1.3)
    assert float(flat[touched, 1]) == pytest.approx(float(expected), abs=1e-5)


def test_an_interrupted_heatmap_continues_and_gives_the_same(tmp_path: Path) -> None:
    model, source = with_turns(model_of()), picture(110, 120)
    cells = cells_of(source, model, 40, share=1.1)
    expected, _ = compute_heatmap(engine(), source, cells, engine().prepare(model))
    checkpoint = tmp_path / "heatmap.npz"
    plan = planned(model, cells)
    seen = 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > 2.5 * len(plan.crops):
            raise KeyboardInterrupt

    first = PatchEngine(engine().settings, stop)
    with pytest.raises(KeyboardInterrupt):
        compute_heatmap(first, source, cells, first.prepare(model), checkpoint)
    done: list[int] = []
    second = PatchEngine(engine().settings, done.append)
    got, stats = compute_heatmap(second, source, cells, second.prepare(model), checkpoint)
    np.testing.assert_array_equal(got.values, expected.values)
    assert 0.2 < stats.resumed / stats.windows < 0.45
    assert not list(tmp_path.glob("*.rows"))  # the large files go as soon as they can
    # Progress of another model is not taken.
    other = with_turns(model_of(seed=4))
    third, of_third = compute_heatmap(engine(), source, cells, engine().prepare(other), checkpoint)
    assert of_third.resumed == 0
    assert np.nanmax(np.abs(third.values - expected.values)) > 1e-3


def test_a_stride_without_neighbours_on_the_lattice_is_refused(tmp_path: Path) -> None:
    model = model_of()
    assert stride_px(model, None) == 10
    assert stride_px(with_turns(model), None) == 10
    with pytest.raises(UsageError, match=r"stride 15 does not divide the cells.*40 px.*: 8, 10, 20, 40"):
        stride_px(model, 15)
    config = AnalyzeConfig(model="ncrf-slim", weights=weights_in(tmp_path), stride=15, device="cpu")
    with pytest.raises(UsageError, match="stride 15"):
        check_config(config)


def test_orientations_are_asked_for_by_the_configuration(tmp_path: Path) -> None:
    config = AnalyzeConfig(model="ncrf-slim", weights=weights_in(tmp_path), tta=8, device="cpu")
    assert isinstance(configured_model(config).net, TurnedNet)
    assert configured_model(config) is configured_model(config)
    assert config.findings_fields()["tta"] == 8
    with pytest.raises(UsageError, match=r"--tta 8.*--dense off"):
        check_config(AnalyzeConfig(tta=8, dense="fast", device="cpu"))


def test_other_models_are_run_as_ever() -> None:
    model = load_model("camelyon-mini")
    cells = grid("id", (512, 512), model.window, (64, 64), Spacing((0.5, 0.5)))
    assert plan_lattice(model, cells) is None
    assert (units_of(model, cells), gain_of(model, cells)) == (len(cells), 1.0)
    base = model_of(CellGrid(cell_px=40, crop_px=32, stride_px=10, crf=False))
    assert plan_lattice(base, cells) is None
    assert stride_px(base, None) == 10


def weights_in(folder: Path, crf: bool = True) -> Path:
    grid_ = CellGrid(cell_px=64, crop_px=48, stride_px=32, crf=crf)
    model = model_of(grid_)
    assert isinstance(model.net, NcrfClassifier)
    file = folder / f"ncrf-{crf}.safetensors"
    write_weights(file, model.net.ncrf.state_dict(), said(grid_).model_dump(mode="json"))
    return file


def test_a_slide_is_analysed_as_with_any_model(tmp_path: Path) -> None:
    slide = write_synthetic_slide(
        SlideRecipe(seed=5, shape_px=(1100, 1200), metastases="none"), tmp_path
    ).slide
    config = AnalyzeConfig(model="ncrf-slim", weights=weights_in(tmp_path), device="cpu", backend="eager")
    outcome = analyze_slide(slide, tmp_path / "out", config, "s")
    assert outcome.status == "done", outcome.reason
    assert (tmp_path / "out" / "s" / "report.html").is_file()
    raster = read_raster(tmp_path / "out" / "s" / "heatmap.ome.tiff")
    assert raster.spacing.mean == pytest.approx(32)
    assert raster.coverage.sum() == outcome.windows > 20
    assert analyze_slide(slide, tmp_path / "out", config, "s").status == "unchanged"
    model = load_model("ncrf-slim", weights=weights_in(tmp_path))
    source = open_source(slide)
    try:
        rows, columns = raster.values.shape[:2]
        plan = grid(source.id, (rows * 32, columns * 32), model.window, (32, 32), Spacing((1.0, 1.0)))
        chosen = np.zeros(len(plan), bool)
        chosen[np.flatnonzero(raster.coverage.ravel())[::7]] = True
        plan = plan.keep(chosen)
        expected, _ = engine().run(source, plan, model, RasterSink(plan, model.classes))
    finally:
        source.close()
    there = expected.coverage
    np.testing.assert_allclose(raster.values[there], expected.values[there], atol=1e-5)
    base = AnalyzeConfig(model="ncrf-slim", weights=weights_in(tmp_path, crf=False), device="cpu")
    assert analyze_slide(slide, tmp_path / "base", base, "s").windows == outcome.windows


def test_detections_are_single_peaks_on_request(tmp_path: Path) -> None:
    slide = write_synthetic_slide(
        SlideRecipe(seed=5, shape_px=(1100, 1200), metastases="micro"), tmp_path
    ).slide
    found: dict[str, list[list[float]]] = {}
    for how in ("regions", "nms"):
        chosen = AnalyzeConfig(stride=32, threshold=0.5, device="cpu").model_copy(update={"detections": how})
        outcome = analyze_slide(slide, tmp_path / how, chosen, "s")
        assert outcome.status == "done", outcome.reason
        lines = (tmp_path / how / "s" / "detections.csv").read_text().splitlines()
        assert lines[0] == "probability,x,y"
        found[how] = [[float(part) for part in line.split(",")] for line in lines[1:]]
    raster = read_raster(tmp_path / "nms" / "s" / "heatmap.ome.tiff")
    scale = raster.spacing.mean / 0.25
    expected = peaks(raster.channel("tumor"), radius_cells=radius_in_cells(raster.spacing.mean))
    assert expected
    np.testing.assert_allclose(
        found["nms"],
        [[p.probability, p.position[1] * scale, p.position[0] * scale] for p in expected],
        atol=0.06,
    )
    assert found["nms"] != found["regions"]
