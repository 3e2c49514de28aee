"""What classical methods and clean-up steps have in common: checked options, and a line that names both.

A choice is written `NAME` or `NAME:OPTION=VALUE,OPTION=VALUE`, such as `dense-crf:appearance_weight=5,iterations=5`;
the numbers of one value are divided by `/`, such as `grabcut:box=10/10/200/300`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from medvision.core.errors import UsageError
from medvision.core.registry import Registry
from medvision.store.records import Record
from medvision.training.config_file import validated

Image = npt.NDArray[np.generic]
Spacing = tuple[float, ...] | None

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
CountOrNone = Annotated[int, Field(ge=0)]


def says(words: str) -> Any:
    """Help text of a field."""
    return Field(description=words)


def split_numbers(value: object) -> object:
    """The parts of a text `10/20/30`, as pydantic reads a tuple."""
    return tuple(value.split("/")) if isinstance(value, str) else value


Box = Annotated[tuple[int, int, int, int], BeforeValidator(split_numbers)]


@dataclass(frozen=True)
class Method:
    """What all entries tell of themselves: `axes` are how many an image may have, `paper` is where it is from."""

    options: type[Record]
    summary: str
    paper: str
    axes: tuple[int, ...]

    def read_options(self, name: str, given: Mapping[str, Any] | Record | None) -> Record:
        """The options as their model has them; texts are read as numbers.

        Raises:
            UsageError: for an unknown option or a value out of range, with the options there are.
        """
        if isinstance(given, Record):
            if not isinstance(given, self.options):
                raise UsageError(
                    f"{name} takes options of type {self.options.__name__}, not {type(given).__name__}"
                )
            return given
        known = ", ".join(self.options.model_fields)
        return validated(dict(given or {}), self.options, f"{name} (options: {known}): ")

    def check_axes(self, name: str, image: Image) -> None:
        """Raise `UsageError` unless the image `(*shape, channels)` has as many axes as the method takes."""
        if image.ndim - 1 not in self.axes:
            wanted = " or ".join(str(axes) for axes in self.axes)
            raise UsageError(f"{name} takes images (*{wanted} axes, channels), not shape {image.shape}")


M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Choice(Generic[M]):
    """One entry of a registry, by its name, with its options."""

    name: str
    method: M
    options: Record

    def fields(self) -> dict[str, Any]:
        """What changes the result: the name, and each option by its name. For records and digests."""
        return {"method": self.name, **self.options.model_dump(mode="json")}


def choose(registry: Registry[M], name: str, options: Mapping[str, Any] | Record | None = None) -> Choice[M]:
    """An entry with its options checked.

    Raises:
        UnknownNameError: for a name that is not there, with those that are.
        UsageError: for options that it does not take.
    """
    method = registry[name]
    return Choice(name, method, method.read_options(name, options))


def read_choice(registry: Registry[M], text: str) -> Choice[M]:
    """The entry that `NAME:OPTION=VALUE,...` names.

    Raises:
        UnknownNameError: for a name that is not there, with those that are.
        UsageError: for a line of another form, or options that it does not take.
    """
    name, _, rest = text.partition(":")
    given: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key.strip() in given:
            raise UsageError(
                f"{text!r}: options are written OPTION=VALUE once each, divided by commas, not {part!r}"
            )
        given[key.strip()] = value.strip()
    return choose(registry, name.strip(), given)
