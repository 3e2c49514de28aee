"""Parameters of a training in a YAML file: one strict base for all of them, and one way to read them.

Light on purpose: the command line reads it for its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from medvision.core.errors import UsageError


class Strict(BaseModel):
    """A frozen set of parameters in which a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_MAPPING = "expected a mapping of names to values (`name: value`)"
_LIST = "expected a list (`[a, b]`, or lines that begin with `- `)"
_WORDS = {
    "extra_forbidden": "no such field",
    "missing": "is missing",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "tuple_type": _LIST,
    "list_type": _LIST,
}
"""What pydantic says for readers of Python, in words for those of YAML."""

Model = TypeVar("Model", bound=BaseModel)


def has_field(path: Path, name: str) -> bool:
    """Whether a YAML file has a field of that name, by which one kind of training is told from another.

    Raises:
        UsageError: if the file is absent or not YAML.
    """
    content = _load(path)
    return isinstance(content, dict) and name in content


def read_yaml_config(path: Path, model: type[Model], /, **given: object) -> Model:
    """The parameters in a YAML file, as `model`; what is `given` and not None stands in place of the file's.

    Raises:
        UsageError: if the file is absent, not YAML, no mapping, or has a wrong or unknown field, which is named.
    """
    content = _load(path)
    if content is None:
        content = {}  # a file of comments alone: every default
    if not isinstance(content, dict):
        raise UsageError(
            f"{path}: expected a mapping of names to values (`name: value`), not {type(content).__name__}"
        )
    content = content | {name: value for name, value in given.items() if value is not None}
    return validated(content, model, f"{path}: ")


def validated(content: object, model: type[Model], where: str = "") -> Model:
    """`content` as `model`; `where` begins the message.

    Raises:
        UsageError: if a field is wrong or unknown, naming it.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{where}{'; '.join(_line(one) for one in _causes(error.errors()))}") from error


def _causes(found: list[ErrorDetails]) -> list[ErrorDetails]:
    """What is wrong, without lists that are too short only because an item of theirs is wrong, which pydantic drops."""
    places = [one["loc"] for one in found]

    def follows(one: ErrorDetails) -> bool:
        depth = len(one["loc"])
        return one["type"] == "too_short" and any(
            len(place) > depth and place[:depth] == one["loc"] for place in places
        )

    return [one for one in found if not follows(one)]


def _line(error: ErrorDetails) -> str:
    """Field, what is wrong with it, and its value where that is short."""
    field = ".".join(str(part) for part in error["loc"])
    kind, found = error["type"], repr(error["input"])
    words = _WORDS.get(kind, error["msg"].removeprefix("Value error, "))
    if kind == "too_short":
        words = f"expected at least {error['ctx']['min_length']} in the list"
    if kind not in ("extra_forbidden", "missing", "value_error") and len(found) <= 60:
        words += f", not {found}"
    return f"{field}: {words}" if field else words


def _load(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
