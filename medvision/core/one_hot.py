"""Tables with a column of 0 and 1 for each class, as the ISIC challenges publish their truth."""

from __future__ import annotations

from collections.abc import Mapping

from medvision.core.errors import UsageError


def the_one(cells: Mapping[str, str], where: str) -> str:
    """The column with 1 where all others have 0.

    Args:
        cells: text by column, such as "0", "1.0".
        where: what the error begins with, such as "truth.csv, line 3: image 'a'".

    Raises:
        UsageError: if a cell is neither 0 nor 1, or none or several are 1, naming their columns.

    >>> the_one({"MEL": "0.0", "NV": "1.0"}, "truth.csv, line 2: image 'a'")
    'NV'
    """
    ones, odd = [], []
    for name, text in cells.items():
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if value == 1:
            ones.append(name)
        elif value != 0:
            odd.append(f"{text!r} in {name}")
    if len(ones) == 1 and not odd:
        return ones[0]
    has = ", ".join(odd) if odd else f"1 in {' and '.join(ones)}" if ones else "no 1"
    raise UsageError(f"{where} must have a 1 in one of {', '.join(cells)} and 0 in the others; it has {has}")
