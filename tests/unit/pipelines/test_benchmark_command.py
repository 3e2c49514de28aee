"""The benchmark's command: a place for the values that cannot be had is named before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvision.cli import run


@pytest.mark.parametrize(
    ("place", "said"), [("file/x.json", "file is there and is not a folder"), ("folder", "is a folder")]
)
def test_a_bad_place_for_the_values_is_wrong_usage(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], place: str, said: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    # The slide does not exist either: had measuring begun, the message would be about that.
    assert run(["benchmark", str(tmp_path / "absent.svs"), "--quick", "--json", str(tmp_path / place)]) == 2
    printed = capfd.readouterr().err
    assert said in printed
    assert "absent.svs" not in printed
