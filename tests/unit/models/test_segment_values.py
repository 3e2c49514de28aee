"""What a network is given of an image: the same in training and in use."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.models.segmentation import usual_segment_contract
from medvision.models.segmentation.values import value_ends, with_channels


def test_fixed_ends_are_the_contracts_and_others_the_sources() -> None:
    values = np.arange(101, dtype=np.int16)
    assert value_ends(values, usual_segment_contract("unet", range=(-100.0, 200.0))) == (-100, 200)
    contract = usual_segment_contract("unet", intensity="source", range=(10.0, 90.0))
    assert value_ends(values, contract) == (10, 90)
    assert value_ends(np.full(9, 7), contract) == (7, 8)


def test_grey_is_shown_thrice_and_colours_by_their_brightness() -> None:
    one = usual_segment_contract("unet")
    three = usual_segment_contract("unet", channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    grey = np.array([[3, 200]], np.uint8)
    assert with_channels(grey, three, "a.png").tolist() == [[[3] * 3, [200] * 3]]
    assert with_channels(grey, one, "a.png").tolist() == [[[3], [200]]]
    red = np.array([[[100, 0, 0]]], np.uint8)
    assert with_channels(red, one, "a.png").tolist() == [[[30]]]
    with pytest.raises(UsageError, match=r"a\.png: has 4 channels, and network 'unet' takes 3"):
        with_channels(np.zeros((2, 2, 4), np.uint8), three, "a.png")
