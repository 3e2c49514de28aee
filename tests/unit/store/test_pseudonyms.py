"""Pseudonyms: an independent HMAC agrees, and no form of a name is left in a text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from medvision.core.errors import UsageError
from medvision.store.pseudonyms import Pseudonyms, read_key, without_name, write_key


def test_openssl_makes_the_same_hash(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(b"medvision slide\0case 7")
    try:
        made = subprocess.run(
            ["openssl", "dgst", "-sha256", "-hmac", "0123456789abcdef", "-r", str(message)],
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    assert Pseudonyms(b"0123456789abcdef").of("case 7") == f"slide-{made.stdout[:16]}"


def test_keys(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert read_key(key).of("a") == read_key(key).of("a") != read_key(key).of("b")
    with pytest.raises(UsageError, match="no key was made"):
        write_key(key)
    key.chmod(0o640)
    with pytest.raises(UsageError, match="others can read"):
        read_key(key)
    short = tmp_path / "short"
    short.write_bytes(b"123456789012345\n")
    short.chmod(0o600)
    with pytest.raises(UsageError, match="15 bytes can be guessed"):
        read_key(short)
    with pytest.raises(UsageError, match="--new-key"):
        read_key(tmp_path / "absent")


def test_no_form_of_the_name_is_left() -> None:
    path = Path("/data/Doe_Jane/Doe^Jane 1970.svs")
    text = f"{path}: damaged; Doe^Jane 1970.svs (Doe^Jane 1970) beside /data/Doe_Jane/x.dat"
    clean = without_name(text, path, "slide-1")
    assert "Doe" not in clean and "Jane" not in clean
    assert clean.startswith("slide-1: damaged")
    assert without_name("1 of 11 windows", Path("/d/1.svs"), "S") == "1 of 11 windows"
