"""Parameters of a training in a YAML file: one strict base for all of them, and one way to read them.

Light on purpose: the command line reads it for its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medvision.core.errors import UsageError


class Strict(BaseModel):
    """A frozen set of parameters in which a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def has_field(path: Path, name: str) -> bool:
    """Whether a YAML file has a field of that name, by which one kind of training is told from another.

    Raises:
        UsageError: if the file is absent or not YAML.
    """
    content = _load(path)
    return isinstance(content, dict) and name in content


def read_yaml_config(path: Path, model: type[Model]) -> Model:
    """The parameters in a YAML file, as `model`.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    try:
        return model.model_validate(_load(path))
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc']) or 'file'}: {e['msg']}" for e in error.errors()]
        raise UsageError(f"{path}: {'; '.join(lines)}") from error


def _load(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({error})") from error
