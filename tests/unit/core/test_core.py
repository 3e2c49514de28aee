"""Digests, errors, registry, results."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import numpy as np
import pytest

from medvision.core import errors
from medvision.core.digest import digest_file, digest_files, digest_json
from medvision.core.errors import MedvisionError, StoreError, UnknownNameError, is_transient
from medvision.core.geometry import Spacing
from medvision.core.registry import Registry
from medvision.core.results import Raster


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert digest_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_of_files_follows_names_and_bytes_and_not_order(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"a")
    two.write_bytes(b"b")
    both = digest_files([one, two])
    assert digest_files([two, one]) == both
    two.write_bytes(b"c")
    assert digest_files([one, two]) != both


def test_digest_of_values_is_canonical_and_refuses_the_rest() -> None:
    assert digest_json({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()
    with pytest.raises(TypeError):
        digest_json({"path": Path("x")})
    with pytest.raises(ValueError, match="JSON"):
        digest_json(float("nan"))


def test_every_error_is_known_and_a_builtin() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not MedvisionError]
    assert len(kinds) >= 8
    for kind in kinds:
        assert issubclass(kind, MedvisionError)
        assert issubclass(kind, (ValueError, LookupError, OSError, RuntimeError))


@pytest.mark.parametrize(
    ("number", "transient"),
    [
        (errno.EIO, True),
        (errno.ESTALE, True),
        (errno.ETIMEDOUT, True),
        (errno.ENOSPC, False),
        (errno.ENOENT, False),
    ],
)
def test_transient_is_what_may_pass(number: int, transient: bool) -> None:
    cause = OSError(number, "reason")
    assert is_transient(cause) is transient
    outer = StoreError("could not be written")
    outer.__cause__ = cause
    assert is_transient(outer) is transient
    assert not is_transient(ValueError("corrupt"))


def test_registry_keeps_order_and_names_the_known() -> None:
    registry: Registry[int] = Registry("colour")
    registry.register("red")(1)
    registry.register("blue")(2)
    assert list(registry) == ["red", "blue"]
    assert registry["blue"] == 2 and "green" not in registry and registry.get("green") is None
    with pytest.raises(UnknownNameError, match="no colour is called 'green'; known: red, blue"):
        registry["green"]
    with pytest.raises(ValueError, match="registered already"):
        registry.register("red")(3)


def test_raster_tells_unread_from_zero() -> None:
    values = np.zeros((2, 2, 2), np.float32)
    values[0, 1, 1] = np.nan
    raster = Raster(values, Spacing((1, 1)), ("normal", "tumor"))
    assert raster.coverage.tolist() == [[True, False], [True, True]]
    assert raster.channel("tumor").shape == (2, 2)
    with pytest.raises(ValueError, match="no channel 'x'; known: normal, tumor"):
        raster.channel("x")
    with pytest.raises(ValueError, match="1 channels named"):
        Raster(values, Spacing((1, 1)), ("a",))
