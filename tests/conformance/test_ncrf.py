"""NCRF: the published sizes, layout and formula, and every NCRF of the catalogue with local weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from medvision.core.errors import UsageError, WeightsError
from medvision.models import MODELS, load_model
from medvision.models.classifiers.slim_resnet import SlimResNet
from medvision.models.contract import CellGrid, WeightsContract
from medvision.models.ncrf import (
    CENTRE,
    NODES,
    MeanFieldCrf,
    NcrfClassifier,
    build_ncrf,
    check_crop,
    cut,
    start_from_classifier,
)
from medvision.models.weights import read_weights, write_weights

NAMES = [name for name, entry in MODELS.items() if entry.family == "ncrf"]
SMALL = CellGrid(cell_px=40, crop_px=32, stride_px=10)


def randomise(net: nn.Module, seed: int = 0) -> None:
    """Weights unlike the initial ones, with statistics that keep values in range."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("crf.W") or name == "W":
            value.copy_(torch.randn(value.shape, generator=generator))
        elif value.ndim == 1 and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))


def test_the_published_numbers_of_parameters() -> None:
    counts = {
        name: sum(p.numel() for p in build_ncrf(name).parameters()) for name in ("resnet18", "resnet34")
    }
    assert counts == {"resnet18": 11_177_106, "resnet34": 21_285_266}


def test_the_crf_is_the_published_formula_cell_by_cell() -> None:
    generator = torch.Generator().manual_seed(1)
    crf = MeanFieldCrf()
    crf.W.data = torch.randn((1, NODES, NODES), generator=generator)
    embeddings = torch.rand((2, NODES, 6), generator=generator)
    unary = torch.randn((2, NODES), generator=generator)
    found = crf(embeddings, unary).detach().numpy()
    f, u, w = embeddings.double().numpy(), unary.double().numpy(), crf.W.detach().double().numpy()[0]
    for n in range(2):
        logit = u[n].copy()
        for _ in range(10):
            q = 1 / (1 + np.exp(-logit))
            new = u[n].copy()
            for i in range(NODES):
                for j in range(NODES):
                    cosine = f[n, i] @ f[n, j] / np.linalg.norm(f[n, i]) / np.linalg.norm(f[n, j])
                    p = cosine * (w[i, j] + w[j, i]) / 2
                    new[i] += q[j] * p - (1 - q[j]) * p
            logit = new
        np.testing.assert_allclose(found[n], logit, atol=2e-4)


def test_at_the_start_the_crf_changes_nothing() -> None:
    unary = torch.randn(3, NODES)
    assert torch.equal(MeanFieldCrf()(torch.rand(3, NODES, 4), unary), unary)


def test_a_cell_without_embedding_neither_gives_nor_takes() -> None:
    crf = MeanFieldCrf()
    randomise(crf)
    embeddings, unary = torch.rand(2, NODES, 5), torch.randn(2, NODES)
    embeddings[:, 3] = 0
    unary[1] = unary[0]
    embeddings[1] = embeddings[0]
    unary[1, 3] = 7.0
    found = crf(embeddings, unary)
    assert float(found[1, 3].detach()) == 7.0
    others = [k for k in range(NODES) if k != 3]
    assert torch.equal(found[0, others], found[1, others])


def test_a_region_is_cut_in_row_order_and_each_cell_at_its_centre() -> None:
    region = torch.arange(120 * 120, dtype=torch.float32).reshape(1, 1, 120, 120)
    crops = cut(region, SMALL)
    assert crops.shape == (1, 9, 1, 32, 32)
    assert torch.equal(crops[0, 5, 0], region[0, 0, 44:76, 84:116])  # the middle row's last cell


def published(trunk: str, crf: bool = True) -> dict[str, torch.Tensor]:
    """Tensors as the published code names them: torchvision's ResNet with one output, and `crf.W`."""
    torch.manual_seed(2)
    net = torchvision.models.get_model(trunk, weights=None, num_classes=1)
    randomise(net)
    state = {
        name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    return {**state, "crf.W": torch.randn(1, 9, 9)} if crf else state


@pytest.mark.parametrize("parallel", [False, True])
def test_the_published_checkpoint_layout_is_read(tmp_path: Path, parallel: bool) -> None:
    state = published("resnet18")
    named = {f"module.{name}": value for name, value in state.items()} if parallel else state
    torch.save({"epoch": 19, "step": 1234, "state_dict": named}, tmp_path / "best.ckpt")
    model = load_model("ncrf-resnet18", weights=tmp_path / "best.ckpt")
    assert (model.window, model.classes, model.positive) == ((768, 768), ("normal", "tumor"), "tumor")
    assert model.spacing is not None and model.spacing.mean == 0.25
    black, grey = (torch.full((1, 1, 1, 3), value, dtype=torch.uint8) for value in (0, 128))
    batch = torch.cat([black, grey]).expand(2, 768, 768, 3)
    assert model.prepare(batch)[:, 0, 0, 0].tolist() == pytest.approx([-1, 0], abs=1e-6)  # (x - 128) / 128
    plain = torchvision.models.resnet18(weights=None, num_classes=1)
    plain.load_state_dict(state, strict=False)
    crops = torch.randn(9, 3, 64, 64)
    assert isinstance(model.net, NcrfClassifier)
    with torch.inference_mode():
        found = model.net.ncrf.cell(crops)
        np.testing.assert_allclose(found[:, -1], plain.eval()(crops)[:, 0], atol=1e-5)
        unary = model.net.ncrf(crops[None])
    assert model.net.ncrf.crf is not None
    assert torch.equal(model.net.ncrf.crf.W, state["crf.W"])
    assert not torch.allclose(unary[0], found[:, -1], atol=1e-2)


def test_a_published_base_checkpoint_is_a_classifier_of_single_crops(tmp_path: Path) -> None:
    torch.save(
        {"epoch": 1, "step": 2, "state_dict": published("resnet18", crf=False)}, tmp_path / "base.ckpt"
    )
    model = load_model("ncrf-resnet18", weights=tmp_path / "base.ckpt")
    assert model.window == (224, 224)
    assert isinstance(model.net, NcrfClassifier) and model.net.ncrf.crf is None


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(
        {"epoch": 1, "step": 2, "state_dict": published("resnet18"), "args": Path("x")}, tmp_path / "a.ckpt"
    )
    with pytest.raises(WeightsError, match="would run code"):
        load_model("ncrf-resnet18", weights=tmp_path / "a.ckpt")


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "step": 2, "state_dict": published("resnet18")}, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"a\.ckpt"):
        load_model("ncrf-slim", weights=tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="window of these cells is 768 px, not 512"):
        load_model("ncrf-resnet18", weights=tmp_path / "a.ckpt", window_px=512)
    with pytest.raises(WeightsError, match="two classes"):
        load_model("ncrf-resnet18", weights=tmp_path / "a.ckpt", classes=["a", "b", "c"])


def test_weights_are_asked_for() -> None:
    with pytest.raises(UsageError, match=r"ncrf-slim.*--weights"):
        load_model("ncrf-slim")


@pytest.mark.parametrize("name", NAMES)
def test_every_ncrf_of_the_catalogue_keeps_the_contract(name: str, tmp_path: Path) -> None:
    entry = MODELS[name]
    assert entry.contract is not None and entry.paper and entry.licence
    torch.manual_seed(0)
    net = entry.build(2)
    randomise(net)
    whole = net.state_dict()
    for crf, window in ((True, 120), (False, 32)):
        grid = SMALL.model_copy(update={"crf": crf})
        said = entry.contract.model_dump() | {"grid": grid, "window_px": grid.window_px}
        contract = WeightsContract.model_validate(said)
        file = tmp_path / f"{crf}.safetensors"
        state = {name: value for name, value in whole.items() if crf or name != "crf.W"}
        write_weights(file, state, contract.model_dump(mode="json"))
        model = load_model(name, weights=file)
        assert model.window == (window, window)
        assert read_weights(file)[1]["grid"]["crop_px"] == 32
        random = np.random.default_rng(0)
        batch = torch.from_numpy(random.integers(0, 256, (3, *model.window, 3)).astype(np.uint8))
        with torch.inference_mode():
            scores = model(batch)
            alone = torch.cat([model(batch[k : k + 1]) for k in range(3)])
        assert isinstance(scores, torch.Tensor)
        assert scores.shape == (3, 2)
        assert torch.allclose(scores.sum(1), torch.ones(3), atol=1e-5)
        assert torch.allclose(scores, alone, atol=1e-5)


def test_the_digest_knows_the_cells_and_the_spacing(tmp_path: Path) -> None:
    contract = MODELS["ncrf-slim"].contract
    assert contract is not None
    digests = set()
    for cell, spacing in ((40, 0.5), (44, 0.5), (40, 1.0)):
        grid = CellGrid(cell_px=cell, crop_px=32, stride_px=10)
        said = contract.model_dump() | {"grid": grid, "window_px": grid.window_px, "spacing_um": spacing}
        torch.manual_seed(0)
        write_weights(tmp_path / "w.safetensors", build_ncrf("slim").state_dict(), _json(said))
        digests.add(load_model("ncrf-slim", weights=tmp_path / "w.safetensors").digest)
    assert len(digests) == 3


def _json(said: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = WeightsContract.model_validate(said).model_dump(mode="json")
    return found


def test_the_start_from_a_classifier_keeps_its_answers() -> None:
    torch.manual_seed(5)
    classifier = SlimResNet(2).eval()
    randomise(classifier)
    net = build_ncrf("slim").eval()
    start_from_classifier(net, classifier.state_dict(), 1, Path("start"))
    crops = torch.randn(9, 3, 64, 64)
    with torch.inference_mode():
        logits = classifier(crops)
        found = net(crops[None])[0]
    np.testing.assert_allclose(found, logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-3)
    base = build_ncrf("slim", crf=False).eval()
    start_from_classifier(base, net.state_dict(), 1, Path("start"))
    with torch.inference_mode():
        np.testing.assert_allclose(base(crops[None])[0], found, rtol=1e-5, atol=1e-5)
    with pytest.raises(WeightsError, match="two classes, not 3"):
        start_from_classifier(net, SlimResNet(3).state_dict(), 1, Path("start"))


@pytest.mark.parametrize(("cell", "crop"), [(40, 41), (40, 31)])
def test_a_crop_must_lie_in_the_middle_of_its_cell(cell: int, crop: int) -> None:
    with pytest.raises(ValueError, match="no place in the middle"):
        CellGrid(cell_px=cell, crop_px=crop, stride_px=10)


def test_a_crop_that_the_small_trunk_cannot_halve_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 16 px, not 56"):
        check_crop("slim", 56)
    check_crop("resnet18", 56)


def test_the_middle_is_the_fifth() -> None:
    assert CENTRE == 4
