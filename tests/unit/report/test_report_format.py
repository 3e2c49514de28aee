"""Figures in print."""

from __future__ import annotations

import math

import pytest

from medvision.report import format as text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "not available"),
        (math.nan, "not available"),
        (0.0, "0.000"),
        (0.0004, "<0.001"),
        (0.4996, "0.500"),
        (0.9996, ">0.999"),
        (1.0, "1.000"),
    ],
)
def test_probability(value, shown):
    assert text.probability(value) == shown


def test_probability_beside_a_threshold():
    assert text.probability(0.49996, 0.5) == "0.49996"
    assert text.probability(0.4996, 0.5) == "0.4996"
    assert text.probability(0.5, 0.5) == "0.500"
    assert text.probability(0.4, 0.5) == "0.400"


@pytest.mark.parametrize(("value", "shown"), [(0.0421, "0.042 mm"), (0.1, "0.10 mm"), (12.345, "12.35 mm")])
def test_length(value, shown):
    assert text.length_mm(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0023, "0.0023 mm²"), (3.98, "3.98 mm²"), (412.26, "412.3 mm²")]
)
def test_area(value, shown):
    assert text.area_mm2(value) == shown


def test_words():
    assert text.plural(1, "region") == "1 region"
    assert text.plural(1200, "region") == "1,200 regions"
    assert text.sentence("tissue share") == "Tissue share"
    assert text.comparison("0.1 <= x, y >= 2") == "0.1 ≤ x, y ≥ 2"
    assert text.duration(119.96) == "120.0 s"
    assert text.duration(179.9) == "3 min 0 s"
    assert text.share(3, 37_411) == "0.00802 %"
    assert text.shortened("abcdefghij", 10) == "abcdefghij"
    assert text.shortened("abcdefghijk", 10) == "abcde…hijk"
    assert text.share(0, 0) == "not available"
    assert text.quantity(0.25, "") == "0.25"
    assert text.quantity(0.41023, "share") == "0.4102"
    assert text.quantity(61234.5, "px") == "61,234 px"


def test_visible_keeps_scripts_and_spells_controls():
    assert text.visible("µ é שלום می‌خواهم 漢") == "µ é שלום می‌خواهم 漢"
    assert text.visible("a\tb\x7f\u200b\u2066\ufeff") == "a⟨U+0009⟩b⟨U+007F⟩⟨U+200B⟩⟨U+2066⟩⟨U+FEFF⟩"
