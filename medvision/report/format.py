"""Numbers with their units and foreign strings, made ready to print. Nothing here knows HTML or typst."""

from __future__ import annotations

import math
import unicodedata

MISSING = "not available"

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # needed to write Persian, Hindi and others; they cannot reorder text


def visible(text: str) -> str:
    """The text with every character that hides, breaks a line or turns the reading direction spelt as `⟨U+202E⟩`.

    A slide's name is whatever somebody typed: a right-to-left override in it could otherwise show "negative" for
    "evitagen". Letters of right-to-left scripts are kept.
    """
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _HIDDEN and c not in _JOINERS else c for c in text
    )


def probability(value: float | None, beside: float | None = None) -> str:
    """Three decimals; an end of the scale is reached only by the value itself: 0.9999 reads ">0.999".

    With a threshold `beside` it that differs and would read the same, there are as many decimals as tell them apart.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if 0.9995 <= value < 1:
        return ">0.999"
    if 0 < value < 0.0005:
        return "<0.001"
    digits = 3
    while (
        beside is not None
        and value != beside
        and digits < 6
        and f"{value:.{digits}f}" == f"{beside:.{digits}f}"
    ):
        digits += 1
    return f"{value:.{digits}f}"


def length_mm(value: float) -> str:
    """A length in millimetres, to 10 µm, or to 1 µm below a tenth of a millimetre."""
    return f"{value:.2f} mm" if value >= 0.1 else f"{value:.3f} mm"


def area_mm2(value: float) -> str:
    """An area in square millimetres with as many decimals as its size deserves."""
    digits = 1 if value >= 100 else 2 if value >= 0.1 else 4
    return f"{value:.{digits}f} mm²"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent."""
    return f"{100 * part / whole:.3g} %" if whole else MISSING


def count(value: int) -> str:
    """An integer with thousands separated."""
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """`1 region`, `2 regions`."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def quantity(value: float, unit: str) -> str:
    """A measure in four significant digits with its unit; a share or ratio is a bare number, as its limits are."""
    if not math.isfinite(value):
        return MISSING
    figure = f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return figure if unit in ("", "share", "ratio") else f"{figure} {unit}"


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes and seconds above."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def sentence(words: str) -> str:
    """The words with a capital first letter; the rest stays as it is, abbreviations among it."""
    return words[:1].upper() + words[1:]


def comparison(limit: str) -> str:
    """`>= 0.2` in printed signs: `≥ 0.2`."""
    return limit.replace(">=", "≥").replace("<=", "≤")


def spacing(values: tuple[float, float]) -> str:
    """`0.499 µm/px`, or rows × columns where the two differ."""
    distinct = {f"{value:.4g}" for value in values}
    if len(distinct) == 1:
        return f"{values[0]:.4g} µm/px"
    return f"{values[0]:.4g} × {values[1]:.4g} µm/px (rows × columns)"


def shortened(words: str, longest: int) -> str:
    """The words, or their first and last part around an ellipsis where they are longer than `longest` characters."""
    if len(words) <= longest:
        return words
    head = longest // 2
    return f"{words[:head]}…{words[len(words) - (longest - head - 1) :]}"
