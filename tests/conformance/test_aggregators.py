"""Every aggregator keeps the contract: a bag in, probabilities and attention out, whatever is missing or beside it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.core.errors import UsageError, WeightsError
from medvision.core.features import FeatureSource
from medvision.models.architectures import ARCHITECTURES
from medvision.models.mil import (
    Aggregator,
    AggregatorContract,
    MilOptions,
    list_designs,
    load_slide_model,
    write_slide_model,
)
from medvision.models.mil.aggregators import build, design
from medvision.models.weights import read_weights

DIMENSION = 12
ORDERED = ("transmil", "cnn-lstm")
"""Networks for which the order of the windows is part of the input."""

SOURCE = FeatureSource(
    trunk="toy",
    digest="d" * 64,
    dimension=DIMENSION,
    window_px=64,
    spacing_um=0.5,
    stride_px=64,
    minimum_tissue=0.1,
)


@pytest.fixture(params=list_designs())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def contract(name: str, classes: int = 2) -> AggregatorContract:
    return AggregatorContract.model_validate(
        {
            "architecture": name,
            "classes": tuple("abc"[:classes]),
            "positive": "b",
            "options": {"hidden": 16, "attention": 8, "heads": 4, "layers": 2},
            "dimension": DIMENSION,
            "features": SOURCE,
        }
    )


def network(name: str, classes: int = 2) -> Aggregator:
    torch.manual_seed(0)
    return build(contract(name, classes))


def bag(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, DIMENSION), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 2, 17])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_bag_of_any_size_has_probabilities_and_attention(name: str, count: int, classes: int) -> None:
    net = network(name, classes)
    with torch.inference_mode():
        (output,) = net(bag(count)[None])
        found = design(name).probabilities(output)
    assert found.shape == (classes,)
    assert found.min() >= 0
    assert found.max() <= 1
    if classes == 2 or name != "dsmil":  # DSMIL's classes do not exclude each other
        assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert output.attention.shape == (count,)
    if net.has_attention:
        assert float(output.attention.sum()) == pytest.approx(1, abs=1e-5)
        assert output.attention.min() >= 0
    else:
        assert output.attention.isnan().all()


def test_a_missing_window_is_as_if_it_were_not_there(name: str) -> None:
    net, whole = network(name), bag(9)
    holes = whole.clone()
    holes[[0, 4, 8]] = torch.nan
    present = [1, 2, 3, 5, 6, 7]
    with torch.inference_mode():
        (found,), (expected,) = net(holes[None]), net(whole[present][None])
    torch.testing.assert_close(found.logits, expected.logits)
    assert found.attention[[0, 4, 8]].isnan().all()
    if net.has_attention:
        torch.testing.assert_close(found.attention[present], expected.attention)


def test_a_bag_does_not_know_its_neighbours(name: str) -> None:
    net = network(name)
    three = torch.full((3, 11, DIMENSION), torch.nan)
    for k, count in enumerate((11, 4, 7)):
        three[k, :count] = bag(count, k)
    with torch.inference_mode():
        together = net(three)
        alone = [net(bag(count, k)[None])[0] for k, count in enumerate((11, 4, 7))]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_order_matters_only_to_those_that_say_so(name: str) -> None:
    net, rows = network(name), bag(13)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (found,), (turned,) = net(rows[None]), net(rows[order][None])
    same = torch.allclose(found.logits, turned.logits, atol=1e-6)
    assert same is (name not in ORDERED)
    if same:
        torch.testing.assert_close(found.attention[order], turned.attention)


def test_its_loss_teaches_it(name: str) -> None:
    net, of_bag = network(name).train(), design(name).loss(contract(name).options)
    bags = torch.stack([bag(8, k) for k in range(4)])
    bags[2:, 3] += 4.0
    targets = torch.tensor([0, 0, 1, 1])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    torch.manual_seed(0)
    losses = []
    for _ in range(40):
        outputs = net(bags)
        loss = torch.stack([of_bag(o, t) for o, t in zip(outputs, targets, strict=True)]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    unused = [key for key, p in net.named_parameters() if p.grad is None]
    assert unused == []


def test_features_are_standardised_by_what_it_was_trained_on(name: str) -> None:
    net, rows = network(name), bag(6)
    with torch.inference_mode():
        (expected,) = net(rows[None])
        net.feature_mean, net.feature_std = torch.full((DIMENSION,), 3.0), torch.full((DIMENSION,), 2.0)
        (found,) = net((rows * 2 + 3)[None])
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_bags_that_cannot_be_are_refused(name: str) -> None:
    net = network(name)
    with pytest.raises(ValueError, match=r"\(b, n, 12\)"):
        net(torch.zeros(1, 3, DIMENSION + 1))
    with pytest.raises(ValueError, match="without any"):
        net(torch.full((1, 3, DIMENSION), torch.nan))


def test_weights_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    net, said = network(name), contract(name)
    file = tmp_path / "model.safetensors"
    write_slide_model(file, net, said)
    model = load_slide_model(tmp_path)
    assert model.contract == said
    assert model.name == tmp_path.name
    vectors = bag(5).numpy()
    prediction = model.predict(vectors)
    with torch.inference_mode():
        expected = design(name).probabilities(net(bag(5)[None])[0])
    np.testing.assert_allclose(list(prediction.probabilities.values()), expected.numpy(), atol=1e-6)
    assert list(prediction.probabilities) == ["a", "b"]
    assert (prediction.attention is not None) is net.has_attention
    state, metadata = read_weights(file)
    assert metadata["features"]["digest"] == "d" * 64
    next(iter(state.values())).view(-1)[0] += 1
    net.load_state_dict(state)
    write_slide_model(file, net, said)
    assert load_slide_model(file).digest != model.digest


def test_other_features_are_refused(name: str, tmp_path: Path) -> None:
    write_slide_model(tmp_path / "model.safetensors", network(name), contract(name))
    model = load_slide_model(tmp_path)
    model.refuse_other(SOURCE)
    with pytest.raises(UsageError, match=r"spacing_um 0\.25 instead of 0\.5"):
        model.refuse_other(SOURCE.model_copy(update={"spacing_um": 0.25}))
    with pytest.raises(UsageError, match="12 features"):
        model.predict(np.zeros((3, 5), np.float32))
    with pytest.raises(UsageError, match="without any"):
        model.predict(np.full((3, DIMENSION), np.nan, np.float32))


def test_the_catalogue_names_its_paper_and_home(name: str) -> None:
    entry = ARCHITECTURES[name]
    assert any(year in entry.paper for year in ("2018", "2020", "2021"))
    assert entry.licence == "Apache-2.0"
    module, _, item = entry.home.partition(":")
    assert isinstance(network(name), getattr(import_module(module), item))


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    from medvision.models import MODELS

    path = MODELS["camelyon-mini"].path
    assert path is not None
    with pytest.raises(WeightsError, match="is no aggregator of slides"):
        load_slide_model(path)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_slide_model(tmp_path)


def test_the_options_defaults_are_a_contract() -> None:
    assert MilOptions().model_dump() == {
        "hidden": 128,
        "attention": 64,
        "dropout": 0.25,
        "heads": 8,
        "layers": 3,
        "readout": "last",
        "instances": 8,
        "bag_weight": 0.7,
        "subtyping": False,
        "passing_values": False,
    }
