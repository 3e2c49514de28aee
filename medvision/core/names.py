"""Names that people write, sought among those that there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from medvision.core.errors import UsageError

_SHOWN = 12
_NEAREST = 3


def find_name(name: str, known: Iterable[str], where: str) -> str:
    """The one of `known` that is `name`: to the letter, or else but for upper and lower case.

    Raises:
        UsageError: if there is none; begins with `where` and names the nearest.

    >>> find_name("NV", ("mel", "nv"), "truth.csv, line 2")
    'nv'
    >>> find_name("melanom", ("melanoma", "nevus"), "truth.csv, line 2")
    Traceback (most recent call last):
    medvision.core.errors.UsageError: truth.csv, line 2: 'melanom' is unknown; nearest: melanoma; known: melanoma, nevus
    """
    names = tuple(known)
    if name in names:
        return name
    found = next((one for one in names if one.lower() == name.lower()), None)
    if found is None:
        raise UsageError(f"{where}: {name!r} is unknown; {choices(name, names)}")
    return found


def choices(name: str, known: Iterable[str]) -> str:
    """The names nearest to `name`, if any are near, and the first of all that are known, in words."""
    names = tuple(known)
    lower = {one.lower(): one for one in reversed(names)}
    near = [lower[one] for one in get_close_matches(name.lower(), lower, _NEAREST)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    listed = f"known: {', '.join(names[:_SHOWN])}{more}"
    return f"nearest: {', '.join(near)}; {listed}" if near else listed
