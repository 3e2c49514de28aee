"""How far each way of computing a classifier may be from eager float32, and that this is measured rightly."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.engine.contract import PatchModel
from medvision.models import load_model, read_model
from medvision.models.catalogue import as_patch_model
from medvision.models.contract import Difference, WeightsContract
from medvision.synthetic import synthetic_patches
from medvision.training.card import replace_differences
from medvision.training.difference import WAYS, Ways, eight_orientations, measure_differences, prepare_ways
from medvision.training.patches import read_folder, to_window

Images = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


class Brightness(nn.Module):
    """The logit of the second class is the mean of a window: exact arithmetic in the test."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3)) * self.gain
        return torch.stack([torch.zeros_like(mean), mean], dim=1)


def brightness(gain: float = 1.0) -> PatchModel:
    contract = WeightsContract(
        architecture="brightness",
        classes=("dark", "bright"),
        window_px=8,
        spacing_um=0.5,
        precisions=("float32", "bfloat16"),
    )
    return as_patch_model("brightness", Brightness(gain).eval(), contract)


def windows(values: list[int]) -> Images:
    return np.stack([np.full((8, 8, 3), value, np.uint8) for value in values])


def test_the_difference_is_the_largest_of_a_probability_and_that_of_the_auc() -> None:
    """A way that says 1 - p of every window: the AUC of 1 becomes 0, and the change of a probability is |1 - 2 p|."""
    ways = prepare_ways(brightness(), [("fused", "float32")])
    turned = replace(ways.others[0], raw=lambda batch: -ways.exact.raw(batch))  # type: ignore[operator]
    images = windows([10, 60, 200, 250])
    (found,) = measure_differences(
        replace(ways, others=(turned,)), images, np.array([False, False, True, True])
    )
    assert found.auc == 1.0
    with torch.inference_mode():
        p = brightness()(torch.from_numpy(images))[:, 1].numpy()  # type: ignore[index]
    largest = np.abs(1 - 2 * p).max()
    assert largest <= found.probability < largest * 1.1  # two digits, rounded up
    assert found.windows == 32
    assert not found.is_close
    assert (found.backend, found.precision) == ("fused", "float32")


def test_rounding_up_never_brings_a_difference_within_the_bound() -> None:
    assert (
        Difference(backend="a", precision="b", probability=0.01000001, auc=0, windows=1).probability == 0.011
    )
    at = Difference(backend="a", precision="b", probability=0.01, auc=0.00049, windows=1)
    assert at.is_close
    assert not at.model_copy(update={"heatmap": 0.011}).is_close
    assert not at.model_copy(update={"auc": 0.0005}).is_close
    assert Difference.model_validate(at.model_dump()) == at


def test_eight_orientations_are_all_different_and_turn_whole_windows() -> None:
    window = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    found = eight_orientations(window)
    assert found.shape == (8, 2, 2, 3)
    assert len({part.tobytes() for part in found}) == 8
    np.testing.assert_array_equal(found[4], window[0, :, ::-1])


def test_what_cannot_be_measured_is_said_with_its_reason() -> None:
    model = replace(brightness(), precisions=("float32",))
    ways = prepare_ways(model, [("fused", "float32"), ("fused", "bfloat16")])
    assert [runner.backend for runner in ways.others] == ["fused"]
    assert "allows: float32" in ways.refused["fused", "bfloat16"]
    with pytest.raises(UsageError, match="no probabilities"):
        prepare_ways(replace(model, output="vector"))
    with pytest.raises(UsageError, match="both classes"):
        measure_differences(ways, windows([1, 2]), np.array([True, True]))


def test_differences_change_neither_digest_nor_other_parts_of_the_card() -> None:
    loaded = read_model()
    found = Difference(backend="fused", precision="bfloat16", probability=0.02, auc=0, windows=7)
    changed = loaded.contract.model_copy(update={"differences": (found,)})
    model = as_patch_model(loaded.name, loaded.net, changed)
    assert model.digest == loaded.model.digest
    assert model.close == ()
    once = replace_differences(loaded.card, (found,))
    assert "| fused | bfloat16 | 0.02 | 0 |  |  | no |" in once
    assert replace_differences(once, (found,)) == once
    assert replace_differences(once, loaded.contract.differences) == loaded.card
    assert replace_differences("# other\n", (found,)).startswith("# other\n\n## Ways to compute it\n")


def test_what_was_measured_is_dropped_where_the_windows_are_others() -> None:
    assert read_model().contract.differences
    assert read_model(spacing_um=1.0).contract.differences == ()
    assert read_model(window_px=256).contract.differences == ()
    assert read_model(window_px=128).contract.differences


@pytest.fixture(
    scope="module", params=[pytest.param("real", marks=[pytest.mark.shared, pytest.mark.slow]), "rendered"]
)
def labelled(request: pytest.FixtureRequest) -> tuple[Images, Bools]:
    """Patches of CAMELYON16 where they are at hand, and rendered ones."""
    if request.param == "rendered":
        images, labels = synthetic_patches(48, seed=91)
        return np.stack([to_window(image, 128) for image in images]), labels.astype(bool)
    shared: Path = request.getfixturevalue("shared")
    folder = shared / "histology" / "camelyon_patches_didsr" / "sample_patches_256"
    found = read_folder(folder, ("normal", "tumor"), ".*", 128)
    return found.images, found.labels == 1


@functools.cache
def all_ways() -> Ways:
    return prepare_ways(load_model())


@pytest.mark.parametrize(("backend", "precision"), WAYS)
def test_the_shipped_model_is_within_the_bound_in_every_way(
    backend: str, precision: str, labelled: tuple[Images, Bools]
) -> None:
    """AUC the same to three decimals, probabilities within 0.01, and what the contract records is what is found."""
    ways = all_ways()
    reason = ways.refused.get((backend, precision))
    if reason is not None:
        pytest.skip(reason)
    chosen = [r for r in ways.others if (r.backend, r.precision) == (backend, precision)]
    (found,) = measure_differences(replace(ways, others=tuple(chosen)), *labelled)
    assert found.is_close, found
    if precision == "float32":
        assert found.probability < 1e-4
    recorded = {(d.backend, d.precision): d for d in read_model().contract.differences}
    assert recorded[backend, precision].is_close
