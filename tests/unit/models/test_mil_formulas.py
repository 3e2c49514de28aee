"""The aggregators against their papers' formulas, written out plainly, and DSMIL with the published weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import WeightsError
from medvision.models.cnn_lstm import CnnLstm
from medvision.models.mil import BagOutput, MilOptions, load_slide_model
from medvision.models.mil.abmil import AttentionMil
from medvision.models.mil.clam import clam_loss, instance_loss, smooth_top1_svm
from medvision.models.mil.dsmil import dsmil_loss, load_published
from medvision.models.mil.transmil import PositionEncoding, SelfAttention, TransMil
from medvision.models.weights import read_weights

OPTIONS = MilOptions(hidden=16, attention=8, heads=4, layers=2, dropout=0.0)


def rows(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, dimension), generator=torch.Generator().manual_seed(seed))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


def test_abmil_is_gated_attention() -> None:
    torch.manual_seed(0)
    net, bag = AttentionMil(6, 2, OPTIONS).eval(), rows(7, 6)
    with torch.inference_mode():
        found = net.bag(bag)
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    h = np.maximum(bag.numpy() @ state["embed.0.weight"].T + state["embed.0.bias"], 0)
    v = np.tanh(h @ state["attention.value.weight"].T + state["attention.value.bias"])
    u = sigmoid(h @ state["attention.gate.weight"].T + state["attention.gate.bias"])
    a = softmax((v * u) @ state["attention.score.weight"].T + state["attention.score.bias"])[:, 0]
    z = a @ h
    np.testing.assert_allclose(found.attention.numpy(), a, rtol=1e-5)
    np.testing.assert_allclose(
        found.logits.numpy(), state["classify.weight"] @ z + state["classify.bias"], atol=1e-5
    )


def test_the_smooth_svm_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.5]])
    assert float(smooth_top1_svm(logits, 0)) == pytest.approx(math.log(math.exp(2) + math.exp(1.5)) - 2)
    assert float(smooth_top1_svm(logits, 1)) == pytest.approx(math.log(math.exp(3) + math.exp(0.5)) - 0.5)


def test_clams_windows_of_highest_and_lowest_attention_are_clustered() -> None:
    scores = torch.tensor([[0.1, 3.0, -2.0, 1.0, 0.5]])
    windows = rows(10, 2).reshape(2, 5, 2)
    output = BagOutput(torch.tensor([0.3, -0.2]), torch.softmax(scores[0], 0), (scores, windows))
    found = instance_loss(output, torch.tensor(1), 2, False)
    top, bottom = [1, 3], [0, 2]
    expected = [smooth_top1_svm(windows[1, top], 1), smooth_top1_svm(windows[1, bottom], 0)]
    torch.testing.assert_close(found, torch.cat(expected).mean())
    of_slide = -torch.log_softmax(output.logits, 0)[1]
    whole = clam_loss(MilOptions(instances=2))(output, torch.tensor(1))
    torch.testing.assert_close(whole, 0.7 * of_slide + 0.3 * found)


def test_clam_subtyping_teaches_the_other_classes_too() -> None:
    scores, windows = rows(2, 6), rows(12, 2, 1).reshape(2, 6, 2)
    output = BagOutput(torch.zeros(2), torch.softmax(scores[1], 0), (scores, windows))
    order = [torch.argsort(row, descending=True) for row in scores]
    expected = [
        smooth_top1_svm(windows[0, order[0][:3]], 1),
        smooth_top1_svm(windows[0, order[0][3:]], 0),
        smooth_top1_svm(windows[1, order[1][:3]], 0),
    ]
    found = instance_loss(output, torch.tensor(0), 8, True)
    torch.testing.assert_close(found, torch.cat(expected).mean())
    # With one branch both classes go by one attention.
    single = BagOutput(torch.zeros(2), torch.softmax(scores[0], 0), (scores[:1], windows))
    expected[2] = smooth_top1_svm(windows[1, order[0][:3]], 0)
    found = instance_loss(single, torch.tensor(0), 8, True)
    torch.testing.assert_close(found, torch.cat(expected).mean())


def test_a_bag_of_one_window_has_no_cluster() -> None:
    output = BagOutput(torch.zeros(2), torch.ones(1), (rows(1, 1), rows(2, 2).reshape(2, 1, 2)))
    assert float(instance_loss(output, torch.tensor(0), 8, False)) == 0


def published(path: Path) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in read_weights(path)[0].items()}


def plain_dsmil(w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equations 3 to 8 of Li et al.: critical instance, queries, attention, bag score; mean of the two streams."""
    scores = x @ w["i_classifier.fc.0.weight"].T + w["i_classifier.fc.0.bias"]
    critical = scores.argmax(axis=0)
    hidden = np.maximum(x @ w["b_classifier.q.0.weight"].T + w["b_classifier.q.0.bias"], 0)
    q = np.tanh(hidden @ w["b_classifier.q.2.weight"].T + w["b_classifier.q.2.bias"])
    attention = np.stack([softmax(q @ q[m] / math.sqrt(q.shape[1])) for m in critical], axis=1)
    b = attention.T @ x
    bag = np.array(
        [
            (kernel * b).sum() + bias
            for kernel, bias in zip(w["b_classifier.fcc.weight"], w["b_classifier.fcc.bias"], strict=True)
        ]
    )
    return (sigmoid(bag) + sigmoid(scores.max(axis=0))) / 2, attention, bag


@pytest.mark.shared
@pytest.mark.parametrize(("file", "classes"), [("c16", ("normal", "tumor")), ("tcga", ("LUAD", "LUSC"))])
def test_published_dsmil_aggregators_load_and_compute_the_papers_formula(
    shared: Path, file: str, classes: tuple[str, ...]
) -> None:
    folder = shared / "checkpoints" / "dsmil_ckpt" / "example_aggregator_weights"
    path = folder / f"{file}_aggregator.pth"
    model = load_slide_model(path, classes=classes)
    x = rows(300, 512).numpy() * 2
    expected, attention, bag = plain_dsmil(published(path), x.astype(np.float64))
    found = model.predict(x)
    values = list(found.probabilities.values())
    np.testing.assert_allclose(values[-len(expected) :], expected, atol=1e-5)
    if len(expected) == 1:
        assert values[0] == pytest.approx(1 - values[1], abs=1e-6)
    assert found.attention is not None
    np.testing.assert_allclose(found.attention, attention[:, -1], atol=1e-5)
    with torch.inference_mode():
        np.testing.assert_allclose(model.net(torch.from_numpy(x)[None])[0].logits, bag, atol=1e-4)


@pytest.mark.shared
def test_published_start_weights_are_no_whole_aggregator(shared: Path) -> None:
    with pytest.raises(WeightsError, match="no whole DSMIL aggregator"):
        load_published(shared / "checkpoints" / "dsmil_ckpt" / "init.pth")


def test_dsmils_loss_is_the_mean_of_both_streams() -> None:
    output = BagOutput(torch.tensor([0.4]), torch.ones(1), (torch.tensor([-0.7]),))
    expected = (math.log1p(math.exp(-0.4)) + math.log1p(math.exp(0.7))) / 2
    assert float(dsmil_loss(OPTIONS)(output, torch.tensor(1))) == pytest.approx(expected)
    three = BagOutput(torch.zeros(3), torch.ones(1), (torch.zeros(3),))
    assert float(dsmil_loss(OPTIONS)(three, torch.tensor(2))) == pytest.approx(math.log(2))


def test_transmils_attention_is_the_plain_softmax() -> None:
    torch.manual_seed(0)
    layer, tokens = SelfAttention(8, 2, 0.0).eval(), rows(40, 8)
    with torch.inference_mode():
        found, attention = layer(tokens)
        q, k, v = (layer.to_qkv.weight.double().chunk(3)[j] @ tokens.double().T for j in range(3))
        heads, weights = [], []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            weight = torch.softmax(q[part].T @ k[part] / 2, dim=1)
            local = nn.functional.conv1d(
                v[part][:, None], layer.res_conv.weight[head, :, :, 0].double()[None], padding=16
            )
            heads.append(weight @ v[part].T + local[:, 0].T)
            weights.append(weight[0])
        expected = layer.to_out.double()(torch.cat(heads, dim=1))
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attention.double(), torch.stack(weights).mean(0), atol=1e-6, rtol=1e-4)


def test_transmils_square_is_filled_up_with_the_first_windows() -> None:
    torch.manual_seed(0)
    net, bag = TransMil(6, 2, OPTIONS).eval(), rows(7, 6)
    sides: list[int] = []
    net.pos_layer.register_forward_pre_hook(lambda _m, inputs: sides.append(inputs[1]))
    with torch.inference_mode():
        found = net.bag(bag)
        again = net.bag(torch.cat([bag, bag[:2]]))
    assert sides == [3, 3]
    torch.testing.assert_close(found.logits, again.logits)
    torch.testing.assert_close(found.attention[0], again.attention[0] + again.attention[7])


def test_the_position_encoding_leaves_the_class_token_alone() -> None:
    torch.manual_seed(0)
    layer, tokens = PositionEncoding(4), rows(10, 4)
    with torch.inference_mode():
        found = layer(tokens, 3)
    torch.testing.assert_close(found[0], tokens[0])
    assert not torch.allclose(found[1:], tokens[1:])


def test_the_cnn_lstm_is_three_bidirectional_layers_over_12_patches() -> None:
    torch.manual_seed(0)
    net = CnnLstm(5376, 4, MilOptions(hidden=8)).eval()
    assert (net.lstm.num_layers, net.lstm.bidirectional, net.lstm.input_size) == (3, True, 5376)
    patches = rows(12, 5376)
    with torch.inference_mode():
        (found,) = net(patches[None])
        states, _ = net.lstm(patches[None])
        expected = net.classify(torch.cat([states[0, -1, :8], states[0, 0, 8:]]))
    torch.testing.assert_close(found.logits, expected)


def test_the_cnn_lstm_may_read_the_largest_of_all_states() -> None:
    torch.manual_seed(0)
    net = CnnLstm(6, 2, MilOptions(hidden=8, readout="max")).eval()
    with torch.inference_mode():
        (found,) = net(rows(9, 6)[None])
        states, _ = net.lstm(rows(9, 6)[None])
        expected = net.classify(states[0].amax(dim=0))
    torch.testing.assert_close(found.logits, expected)
