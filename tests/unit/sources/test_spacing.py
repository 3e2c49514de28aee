from __future__ import annotations

import numpy as np
import pytest

from medvision.core.errors import SpacingError, UsageError
from medvision.core.geometry import Spacing
from medvision.sources import open_source
from medvision.sources.array_source import ArraySource
from medvision.sources.spacing import from_resolution, require_spacing, spacing_warnings, supplied


def source(*values: float, power: str | None = None, origin: str = "file") -> ArraySource:
    metadata = {} if power is None else {"objective_power": power}
    spacing = Spacing(values, "um", origin) if values else None
    return ArraySource(np.zeros((4, 4, 3), np.uint8), spacing=spacing, metadata=metadata)


@pytest.mark.parametrize(
    ("values", "power", "says"),
    [
        ((), None, "does not say how large a pixel is.*--slide-spacing 0.5"),
        ((0.01, 0.01), None, "outside 0.02 to 100.*--slide-spacing"),
        ((124.0, 124.0), None, "outside 0.02 to 100.*--slide-spacing"),
        ((0.5, 0.52), None, "not square within 2%.*--slide-spacing"),
        ((30.0, 30.0), "40", "impossible for a 40x objective.*--slide-spacing"),
    ],
)
def test_a_spacing_that_cannot_be_measured_with_is_refused(values, power, says):
    with pytest.raises(SpacingError, match=says):
        require_spacing(source(*values, power=power))


def test_what_is_accepted():
    assert require_spacing(source(0.5, 0.505)).values == (0.5, 0.505)
    assert require_spacing(source(30.0, 30.0, power="40", origin="supplied")).origin == "supplied"


def test_plausibility_against_the_objective():
    assert spacing_warnings(source(0.25, 0.25, power="40")) == []
    assert spacing_warnings(source(0.499, 0.499, power="20")) == []
    (text,) = spacing_warnings(source(1.0, 1.0, power="40"))
    assert "unusual for a 40x objective" in text
    assert "0.25 µm/px" in text


@pytest.mark.parametrize("wrong", [0.0, -0.5, float("inf"), (0.5, 0.0), (0.5, 0.5, 0.5)])
def test_supplied_spacing_is_positive(wrong):
    with pytest.raises(UsageError, match="not positive"):
        supplied(wrong)


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600])
def test_printing_resolutions_are_not_spacing(dpi):
    assert from_resolution(dpi, dpi, "inch") is None
    assert from_resolution(dpi / 2.54, dpi / 2.54, "cm") is None


def test_resolution_tags():
    assert from_resolution(20_000, 40_000, "cm") == Spacing((0.5, 0.25))
    assert from_resolution(20_000, 20_000, "none") is None
    assert from_resolution(0, 20_000, "cm") is None
    assert from_resolution(float("nan"), 1.0, "cm") is None
    assert from_resolution(1e9, 1e9, "cm") is None


def test_supplied_replaces_what_the_file_states(write_pyramid, picture):
    path = write_pyramid([picture])
    assert open_source(path).spacing == Spacing((0.5, 0.5))
    assert open_source(path, 0.25).spacing == Spacing((0.25, 0.25), "um", "supplied")
    assert open_source(path, (0.3, 0.4)).spacing == Spacing((0.3, 0.4), "um", "supplied")
    with pytest.raises(UsageError):
        open_source(path, 0.0)
