"""Losses of segmentation on arrays that were worked out by hand, and against other implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from medvision.core.errors import UsageError
from medvision.models.segmentation import build_segment_net, usual_segment_contract
from medvision.training.config_file import validated
from medvision.training.segment_config import IGNORED, LossConfig
from medvision.training.segment_losses import (
    SegmentLoss,
    at_depth,
    cross_entropy,
    focal,
    overlap,
    pack,
    segment_loss,
)

# Two pixels of one row: foreground probabilities 0.8 and 0.4, truth foreground and background.
P = torch.tensor([0.8, 0.4])
LOGITS = torch.stack([torch.log(1 - P), torch.log(P)]).reshape(1, 2, 1, 2)
LABELS = torch.tensor([[[1, 0]]])
NONE = torch.zeros(1, 1, 2)


def test_cross_entropy_is_the_mean_of_minus_log_p() -> None:
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    assert float(cross_entropy(LOGITS, LABELS, NONE)) == pytest.approx(expected)


def test_weights_of_classes_and_of_the_map_are_added() -> None:
    border = torch.tensor([[[0.0, 7.0]]])
    found = cross_entropy(LOGITS, LABELS, border, (2.0, 5.0))
    expected = -(5 * math.log(0.8) + (2 + 7) * math.log(0.6)) / (5 + 2 + 7)
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dice", 1 - 2 * 0.8 / (1.2 + 1)),
        ("dice-squared", 1 - 2 * 0.8 / (0.64 + 0.16 + 1)),
        ("jaccard", 1 - 0.8 / (1.2 + 1 - 0.8)),
    ],
)
def test_overlaps_of_the_foreground(name: str, expected: float) -> None:
    assert float(overlap(name)(LOGITS, LABELS, NONE)) == pytest.approx(expected, abs=1e-4)  # type: ignore[arg-type]


def test_generalised_dice_weighs_classes_by_their_rareness() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.6, 0.5, 0.1], [0.3, 0.4, 0.5, 0.9]])).reshape(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 0, 1]]])
    common = (1.8 / 9, 0.9 / 1)  # sums of p g, weighted by 1 / (3 pixels)^2 and 1 / 1^2
    both = ((1.9 + 3) / 9, (2.1 + 1) / 1)
    found = overlap("generalised-dice", background=True)(logits, labels, torch.zeros(1, 1, 4))
    assert float(found) == pytest.approx(1 - 2 * sum(common) / sum(both), abs=1e-4)


def test_focal_loss_by_hand_and_against_monai() -> None:
    expected = -(0.2**2 * math.log(0.8) + 0.4**2 * math.log(0.6)) / 2
    assert float(focal(LOGITS, LABELS)) == pytest.approx(expected)
    assert float(focal(LOGITS, LABELS, 0)) == pytest.approx(float(cross_entropy(LOGITS, LABELS, NONE)))
    from monai.losses import FocalLoss

    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    theirs = FocalLoss(use_softmax=True, to_onehot_y=True, gamma=1.5)(logits, labels[:, None])
    assert float(focal(logits, labels, 1.5)) == pytest.approx(
        3 * float(theirs), rel=1e-5
    )  # they divide by classes


@pytest.mark.parametrize(
    "terms",
    [
        {"cross-entropy": 1},
        {"focal": 1},
        {"dice": 1},
        {"dice-squared": 1},
        {"generalised-dice": 1},
        {"jaccard": 1},
    ],
)
def test_what_is_ignored_changes_nothing_and_gets_no_gradient(terms: dict[str, float]) -> None:
    loss = segment_loss(validated({"terms": terms, "background": True}, LossConfig), 3)
    logits = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    labels[:, :, 4:] = IGNORED
    wild = logits.clone()
    wild[..., 4:] = 50 * torch.randn(2, 3, 6, 2, generator=torch.Generator().manual_seed(2))
    wild.requires_grad_()
    found = loss(wild, pack(labels))
    found.backward()
    assert float(found.detach()) == pytest.approx(
        float(loss(logits[..., :4], pack(labels[..., :4]))), rel=1e-5
    )
    assert wild.grad is not None
    assert not wild.grad[..., 4:].any()
    assert wild.grad[..., :4].any()
    everything = torch.full_like(labels, IGNORED)
    assert torch.isfinite(loss(logits, pack(everything)))


def test_terms_are_summed_with_their_weights() -> None:
    config = validated({"terms": {"cross-entropy": 0.5, "dice-squared": 2}}, LossConfig)
    found = segment_loss(config, 2)(LOGITS, pack(LABELS))
    expected = -0.25 * (math.log(0.8) + math.log(0.6)) + 2 * (1 - 1.6 / 1.8)
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_labels_of_a_network_without_padding_are_cut_to_its_answer() -> None:
    labels = torch.arange(36).reshape(1, 6, 6)
    cut = at_depth(pack(labels), (2, 2), (2, 2))
    assert cut[0, 0].tolist() == [[14, 15], [20, 21]]


def test_depths_count_half_as_much_each_and_labels_are_thinned() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]] * 4])
    assert at_depth(pack(labels), (2, 2), (4, 4))[0, 0].tolist() == [[0, 1], [0, 1]]
    loss = SegmentLoss(
        ((1.0, lambda logits, labels, _: cross_entropy(logits, labels, torch.zeros(labels.shape))),)
    )
    fine, coarse = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 2)
    of_fine = functional.cross_entropy(fine, labels)
    of_coarse = functional.cross_entropy(coarse, torch.tensor([[[0, 1], [0, 1]]]))
    assert float(loss((fine, coarse), pack(labels))) == pytest.approx(float((of_fine + of_coarse / 2) / 1.5))


@pytest.mark.parametrize(("name", "side"), [("unet", 32), ("unet-original", 108)])
def test_every_output_of_a_network_with_deep_supervision_learns(name: str, side: int) -> None:
    contract = usual_segment_contract(
        name, window=(side, side), options={"width": 0.0625, "depth": 3, "deep_supervision": True}
    )
    net = build_segment_net(contract).train()
    loss = segment_loss(validated({}, LossConfig), 2)
    labels = torch.randint(2, (2, side, side))
    loss(net(torch.randn(2, 1, side, side)), pack(labels)).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())


def test_class_weights_must_be_as_many_as_the_classes() -> None:
    with pytest.raises(UsageError, match="2 class weights for 3 classes"):
        segment_loss(validated({"class_weights": [1, 2]}, LossConfig), 3)
