"""A map of the network's square lies over the image where the square showed it."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.ops.resize import Resize, fit_square, over_image


@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64), (31, 50)])
def test_what_is_bright_in_the_square_is_bright_there_in_the_image(
    how: Resize, shape: tuple[int, int]
) -> None:
    image = np.zeros(shape, np.uint8)
    row, column = shape[0] // 2 + 4, shape[1] // 2 - 6
    image[row - 3 : row + 3, column - 3 : column + 3] = 255
    square = fit_square(image, 48, how)[..., 0].astype(np.float32)
    found = over_image(square, shape, how)
    assert found.shape == shape
    weights = np.nan_to_num(found)
    centre = [(weights.sum(axis=1 - axis) @ np.arange(shape[axis])) / weights.sum() for axis in (0, 1)]
    assert abs(centre[0] - (row - 0.5)) < 1 and abs(centre[1] - (column - 0.5)) < 1
    if how == "crop":
        inside = min(shape)
        assert np.isfinite(found).sum() == inside * inside, "what the network did not see has no value"
    else:
        assert np.isfinite(found).all()
