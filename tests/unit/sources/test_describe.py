from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from medvision.sources.describe import describe, render_text
from medvision.sources.facts import ALLOWED, facts

SECRETS = ["b414003d", "12/29/09", "09:59:15", "CPAPERIOCS", "1004486", "CMU-1"]
APERIO = (
    "Aperio Image Library v11.2.1\r\n128x64 [0,0 128x64] (64x64) JPEG/RGB Q=30|AppMag = 20|StripeWidth = 2040"
    "|ScanScope ID = CPAPERIOCS|Filename = CMU-1|Date = 12/29/09|Time = 09:59:15|User = b414003d|MPP = 0.4990"
    "|ImageID = 1004486"
)


@pytest.fixture
def aperio(tmp_path):
    path = tmp_path / "scan.svs"
    tifffile.imwrite(
        path, np.full((64, 128, 3), 200, np.uint8), tile=(64, 64), compression="jpeg", photometric="rgb",
        description=APERIO, metadata=None,
    )  # fmt: skip
    return path


def test_describes_from_allow_listed_facts_only(aperio):
    found = describe(aperio)
    assert (found.reader, found.vendor, found.shape) == ("tiff", "aperio", (64, 128))
    assert found.spacing_um == (0.499, 0.499)
    assert found.spacing_origin == "file"
    assert found.size_mm == (0.0319, 0.0639)
    assert found.objective_power == "20"
    assert found.compression == "JPEG"
    assert found.warnings == ()
    assert len(found.digest) == 64
    assert set(found.metadata) <= set(ALLOWED)
    text = json.dumps(found.as_json()) + render_text(found)
    assert not [secret for secret in SECRETS if secret in text]


def test_text_is_aligned_and_complete(aperio):
    lines = render_text(describe(aperio, 0.25)).splitlines()
    assert "Spacing               0.25 µm/px (supplied)" in lines
    assert "Size                  128 x 64 px, 0.032 x 0.016 mm (wide x high)" in lines
    assert (
        lines[-3:-2] == ["Level  Width  Height  Downsample  µm/px"]
        or lines[-2] == "Level  Width  Height  Downsample  µm/px"
    )


def test_a_missing_or_unlikely_spacing_is_warned_of_without_the_files_name(
    tmp_path, write_pyramid, picture, aperio
):
    (warning,) = describe(write_pyramid([picture], spacing_um=None)).warnings
    assert "--slide-spacing 0.5" in warning
    assert "slide.tif" not in warning
    (warning,) = describe(aperio, 2.0).warnings
    assert "unusual for a 20x objective" in warning


def test_facts_are_plain_and_short():
    found = facts(
        {
            "scanner_model": "<script>alert('x')</script>\nName: Doe",
            "user": "Doe",
            "objective_power": None,
            "bits": 8,
        }
    )
    assert found["bits"] == "8"
    assert set(found) == {"scanner_model", "bits"}
    assert not set("<>'\n:") & set(found["scanner_model"])
    assert len(facts({"scanner_model": "x" * 500})["scanner_model"]) == 80


@pytest.mark.shared
def test_dicom_patient_data_does_not_come_through(shared):
    import pydicom

    path = shared / "slides/openslide_python/boxes_0.dcm"
    text = json.dumps(describe(path).as_json())
    header = pydicom.dcmread(path, stop_before_pixels=True)
    for name in (
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "DeviceSerialNumber",
        "ContainerIdentifier",
    ):
        assert str(header[name].value) not in text
