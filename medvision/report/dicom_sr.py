"""The findings of a scan as a DICOM structured report: an imaging measurement report (TID 1500), by highdicom.

It is filed in the study of the series and refers to its images. A finding is a volumetric region of interest (TID
1411), or a planar one (TID 1410) where it meets a single image: a circle on each image that the ball about its centre
meets, with the measurements of the record. Nothing is computed but these circles.
"""

from __future__ import annotations

import importlib.util
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medvision.sources.dicom_origin import SeriesOrigin
from medvision.sources.dicom_series import Slice
from medvision.sources.faults import quiet
from medvision.sources.write_volume import uid_of
from medvision.store.scan_records import Finding, NoduleResult

FINDINGS_SR = "findings.dcm"
NOT_INSTALLED = (
    "No DICOM structured report was written: that needs highdicom, which is not installed "
    "(pip install 'medvision[dicom]')."
)
_SERIES_NUMBER = 9901
"""Of the report's own series: beyond those that scanners give."""
_SQUARE = 1e-3
"""Relative difference of a pixel's sides below which a circle is one in pixels, too."""


def can_write_sr() -> bool:
    """Whether highdicom is installed."""
    return importlib.util.find_spec("highdicom") is not None


def write_sr(path: Path, result: NoduleResult, origin: SeriesOrigin, run_id: str) -> None:
    """Write the findings of `result`, searched in the series of `origin`, to `path`. UIDs are made from `run_id`.

    Raises:
        ValueError, TypeError, AttributeError: if the series states of its study what cannot be repeated.
        OSError: if the file cannot be written.
    """
    from highdicom.sr import ComprehensiveSR

    def named(what: str) -> str:
        return uid_of(f"{result.scan.digest} {run_id} {what}")

    with quiet():
        document = ComprehensiveSR(
            evidence=_evidence(origin),
            content=_content(result, origin, named)[0],
            series_instance_uid=named("series"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=named("report"),
            instance_number=1,
            manufacturer="medvision",
            manufacturer_model_name="medvision",
            software_versions=result.software["medvision"],
            series_description="Lung nodules: research use only",
            content_qualification="RESEARCH",
            specific_character_set="ISO_IR 192",
            is_complete=True,
            is_final=False,
        )
        document.save_as(path, enforce_file_format=True)


def circle_of(one: Slice, centre: np.ndarray[Any, Any], radius_mm: float) -> tuple[str, Any]:
    """A circle in the plane of an image, about the foot of a point (x, y, z) in LPS mm: graphic type and points.

    Points `(n, 2)` are (column, row) in pixels from the upper left corner of the upper left pixel (PS3.3 C.18.6). It is
    an ellipse where pixels are not square.
    """
    row_mm, column_mm = one.spacing
    apart = centre - np.array(one.position)
    middle = np.array([apart @ np.array(one.across) / column_mm, apart @ np.array(one.down) / row_mm]) + 0.5
    across, down = np.array([radius_mm / column_mm, 0.0]), np.array([0.0, radius_mm / row_mm])
    if abs(row_mm / column_mm - 1) <= _SQUARE:
        return "CIRCLE", np.stack([middle, middle + across])
    longer, shorter = (across, down) if row_mm > column_mm else (down, across)
    return "ELLIPSE", np.stack([middle - longer, middle + longer, middle - shorter, middle + shorter])


def sections_of(
    slices: tuple[Slice, ...], centre: np.ndarray[Any, Any], diameter_mm: float
) -> list[tuple[Slice, float]]:
    """The images that a ball meets, each with the radius in mm of the circle that it cuts; at least the nearest one."""
    normal = np.cross(slices[0].across, slices[0].down)
    apart = np.array([(centre - np.array(one.position)) @ normal for one in slices])
    radius = diameter_mm / 2
    met = [
        (one, math.sqrt(radius**2 - d**2))
        for one, d in zip(slices, apart.tolist(), strict=True)
        if abs(d) < radius
    ]
    return met or [(slices[int(np.abs(apart).argmin())], radius)]


def _evidence(origin: SeriesOrigin) -> list[Any]:
    """The images by their UIDs; the first carries what the report repeats of patient and study."""
    from pydicom.dataset import Dataset

    found = []
    for one in origin.slices:
        image = Dataset()
        image.StudyInstanceUID, image.SeriesInstanceUID = origin.study["StudyInstanceUID"], origin.series_uid
        image.SOPClassUID, image.SOPInstanceUID = origin.class_uid, one.uid
        found.append(image)
    for name, value in origin.study.items():
        if value or name != "IssuerOfPatientID":
            setattr(found[0], name, value)
    return found


def _content(result: NoduleResult, origin: SeriesOrigin, named: Any) -> Any:
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    device = hd.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=uid_of(f"medvision {result.software['medvision']}"),
            name="medvision",
            manufacturer_name="medvision",
            model_name=f"medvision {result.software['medvision']}, research use only",
        ),
    )
    algorithm = hd.AlgorithmIdentification(
        name="medvision nodules: research use only",
        version=result.software["medvision"],
        parameters=[
            *(f"{net.role} {net.name} {net.version} sha256:{net.digest}" for net in result.models),
            f"threshold {result.threshold:g}",
        ],
    )
    groups = [_group(one, origin, algorithm, named) for one in result.findings]
    return hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=device),
        procedure_reported=codes.SCT.ComputedTomography,
        imaging_measurements=groups or [_nothing(algorithm, named)],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _group(one: Finding, origin: SeriesOrigin, algorithm: Any, named: Any) -> Any:
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    side = {"left": codes.SCT.Left, "right": codes.SCT.Right, None: None}[one.side]
    sections = sections_of(origin.slices, np.array(one.world), one.diameter_mm)
    regions = []
    for image, radius_mm in sections:
        graphic, points = circle_of(image, np.array(one.world), radius_mm)
        shown = hd.SourceImageForRegion(origin.class_uid, image.uid)
        regions.append(hd.ImageRegion(graphic_type=graphic, graphic_data=points, source_image=shown))
    mm, mean = codes.UCUM.Millimeter, codes.SCT.Mean
    # Name, value, unit, and what is made of many voxels.
    figures = [
        (codes.SCT.Diameter, one.diameter_mm, mm, None),
        (codes.SCT.LongAxis, one.long_mm, mm, None),
        (codes.SCT.ShortAxis, one.short_mm, mm, None),
        (codes.SCT.Volume, one.volume_mm3, codes.UCUM.CubicMillimeter, None),
        (codes.DCM.AttenuationCoefficient, one.mean_hu, codes.UCUM.HounsfieldUnit, mean),
        (codes.DCM.CertaintyOfFinding, round(100 * one.score, 4), codes.UCUM.Percent, None),
    ]
    kind: Any
    if len(regions) == 1:  # which readers take for a planar region, whatever the template says
        kind = partial(hd.PlanarROIMeasurementsAndQualitativeEvaluations, referenced_region=regions[0])
    else:
        kind = partial(hd.VolumetricROIMeasurementsAndQualitativeEvaluations, referenced_regions=regions)
    return kind(
        tracking_identifier=hd.TrackingIdentifier(named(f"finding {one.id}"), f"Finding {one.id}"),
        finding_type=codes.SCT.Nodule,
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_sites=[hd.FindingSite(codes.SCT.Lung, laterality=side)],
        algorithm_id=algorithm,
        measurements=[
            hd.Measurement(name=name, value=value, unit=unit, derivation=derivation)
            for name, value, unit, derivation in figures
            if value is not None
        ],
    )


def _nothing(algorithm: Any, named: Any) -> Any:
    """What a report without a finding says: the template wants a group, and that all ran is worth saying."""
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(named("no finding"), "No finding"),
        finding_sites=[hd.FindingSite(codes.SCT.Lung)],
        algorithm_id=algorithm,
        qualitative_evaluations=[
            hd.QualitativeEvaluation(
                codes.DCM.CADProcessingAndFindingsSummary, codes.DCM.AllAlgorithmsSucceededWithoutFindings
            )
        ],
    )
