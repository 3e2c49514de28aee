"""Still images in DICOM files: one frame, rescaled, windowed as the file or the caller says."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.ops.window import between
from medvision.sources.base import Pixels
from medvision.sources.facts import facts as allowed_facts
from medvision.sources.faults import (
    LIBRARY_ERRORS,
    MAX_FLAT_PIXELS,
    check_pixels,
    check_shape,
    quiet,
    reason_of,
)
from medvision.sources.still_image import WINDOWS, Grey, StillImage, Window, Windowing, windowed

_DEFLATED = "1.2.840.10008.1.2.1.99"
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def read_dicom(data: bytes, digest: str, window: Window, frame: int | None) -> StillImage:
    """The image, or the named frame, in a file's bytes. See `medvision.sources.still.read_still`."""
    # All of it without warnings: values are converted, and found to be odd, when they are first looked at.
    with quiet():
        dataset = dataset_of(BytesIO(data))
        at = _frame(dataset, frame)
        stored = stored_pixels(dataset, at)
        bits = int(dataset.get("BitsStored", stored.dtype.itemsize * 8))
        if stored.ndim == 3:
            pixels, windowing = _colour(stored, bits)
        else:
            pixels, windowing = _grey(dataset, stored, bits, window, at)
        known = allowed_facts(
            {
                "scanner_manufacturer": dataset.get("Manufacturer"),
                "scanner_model": dataset.get("ManufacturerModelName"),
                "compression": getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", None),
            }
        )
    return StillImage(np.ascontiguousarray(pixels), windowing, bits, "DICOM", digest, known)


def look_at_dicom(stream: BinaryIO, frame: int | None) -> None:
    """Read the header of a file that is open. See `medvision.sources.still.look_at_still`."""
    with quiet():
        _frame(dataset_of(stream, pixels=False), frame)


def refuse_deflated(stream: BinaryIO) -> None:
    """Raise `UnreadableSourceError` for a deflated DICOM file: it unfolds without limit when it is read.

    It is told by its first group, which is never deflated.
    """
    from pydicom.filereader import data_element_generator

    stream.seek(132)
    head = data_element_generator(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    for element in head:
        if element.tag == 0x00020010 and _DEFLATED.encode() in bytes(element.value or b""):
            raise UnreadableSourceError("a deflated DICOM file, which is not read; save it uncompressed")


def dataset_of(stream: BinaryIO, *, pixels: bool = True) -> Any:
    """The data set of an open file, which holds an image. Raises `UnreadableSourceError` where it holds none."""
    import pydicom

    refuse_deflated(stream)
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=not pixels)
    for name in ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel"):
        if dataset.get(name) is None:
            raise UnreadableSourceError(f"a DICOM file without an image: it has no {name}")
    return dataset


def _frame(dataset: Any, frame: int | None) -> int:
    shape = (int(dataset.Rows), int(dataset.Columns))
    check_shape("the DICOM file", shape)
    check_pixels("the DICOM file", shape, MAX_FLAT_PIXELS)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise UnreadableSourceError(f"holds {frames} frames; name one, 0 to {frames - 1}, by `frame`")
    if frame is not None and not 0 <= frame < frames:
        raise UsageError(f"no frame {frame}; it holds {frames}, from 0 to {frames - 1}")
    return frame or 0


def stored_pixels(dataset: Any, frame: int) -> npt.NDArray[Any]:
    """Stored grey values `(rows, columns)`, or RGB `(rows, columns, 3)`."""
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    try:
        stored = pixel_array(dataset, index=frame)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, dataset)
    except LIBRARY_ERRORS as error:
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        raise UnreadableSourceError(
            f"DICOM pixels in {syntax} cannot be decoded: {reason_of(error)}"
        ) from error
    if stored.shape not in ((dataset.Rows, dataset.Columns), (dataset.Rows, dataset.Columns, 3)):
        raise UnreadableSourceError(f"DICOM pixels of shape {stored.shape}, neither grey nor RGB")
    return np.asarray(stored)


def _colour(stored: npt.NDArray[Any], bits: int) -> tuple[Pixels, Windowing]:
    if stored.dtype == np.uint8 and bits == 8:
        return stored, Windowing("as stored")
    top = float((1 << bits) - 1) if bits < stored.dtype.itemsize * 8 else float(np.iinfo(stored.dtype).max)
    return between(stored, 0.0, top), Windowing("full range", 0.0, top)


def _grey(dataset: Any, stored: Grey, bits: int, window: Window, frame: int) -> tuple[Pixels, Windowing]:
    from pydicom.pixels.processing import apply_modality_lut

    facts = _display_facts(dataset, frame)
    values = apply_modality_lut(stored, facts)
    if window is None and ("VOILUTSequence" in facts or _numbers(facts, "WindowWidth")):
        pixels, windowing = _by_file(facts, values)
    else:
        full = _full(facts, stored, bits)
        if window is None and (bits > 8 or full is None):
            raise UsageError(
                f"grey of {bits} bits, and neither the file nor a parameter gives a window: choose {WINDOWS}"
            )
        pixels, windowing = windowed(values, window or "full", full, ~padding(dataset, stored))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 255 - pixels, replace(windowing, inverted=True)
    return pixels, windowing


def _display_facts(dataset: Any, frame: int) -> Any:
    """Rescaling and windows of one frame: its own, else those shared by all frames, else those of the image."""
    from pydicom.dataset import Dataset

    facts = Dataset()
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    levels = [dataset, *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1], *own[frame : frame + 1]]
    names = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth",
             "VOILUTFunction")  # fmt: skip
    for level in levels:
        for part in (level, *(item for name in _MACROS for item in (level.get(name) or [])[:1])):
            for name in names:
                if name in part:
                    facts[name] = part[name]
    return facts


def _by_file(facts: Any, values: Grey) -> tuple[Pixels, Windowing]:
    """The file's VOI LUT, or its first window by its function (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    from pydicom.pixels.processing import apply_voi

    if "VOILUTSequence" in facts:
        top = float((1 << int(facts.VOILUTSequence[0].LUTDescriptor[2])) - 1)
        return between(apply_voi(values, facts), 0.0, top), Windowing("VOI LUT of the file")
    centres, widths = _numbers(facts, "WindowCenter"), _numbers(facts, "WindowWidth")
    if not centres or not (np.isfinite(centres[0]) and widths[0] > 0):
        raise UnreadableSourceError(
            f"the file's window (centre {centres[:1]}, width {widths[:1]}) cannot be shown; give one: {WINDOWS}"
        )
    centre, width = centres[0], widths[0]
    function = str(facts.get("VOILUTFunction") or "LINEAR")
    how = "window of the file" if len(widths) == 1 else f"window 1 of {len(widths)} of the file"
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values.astype(np.float64) - centre) / width, -700, 700)
        pixels = between(1 / (1 + np.exp(exponent)), 0.0, 1.0)
        return pixels, Windowing(f"{how}, sigmoid", centre - width / 2, centre + width / 2)
    if function == "LINEAR_EXACT":
        low, high = centre - width / 2, centre + width / 2
    else:  # LINEAR counts whole grey values: a width of 256 around 128 is 0 to 255
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return between(values, low, high), Windowing(how, low, high)


def _numbers(facts: Any, name: str) -> list[float]:
    value = facts.get(name)
    if value is None or value == "":
        return []
    return [
        float(one)
        for one in (value if isinstance(value, list | tuple) or hasattr(value, "append") else [value])
    ]


def _full(facts: Any, stored: Grey, bits: int) -> tuple[float, float] | None:
    """Smallest and largest value that the stored bits can mean, None where they are floating point."""
    from pydicom.pixels.processing import apply_modality_lut

    if stored.dtype.kind == "f":
        return None
    ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if stored.dtype.kind == "i" else (0, (1 << bits) - 1)
    meant = apply_modality_lut(np.array(ends, stored.dtype if bits > 1 else np.uint8), facts)
    return float(meant.min()), float(meant.max())


def padding(dataset: Any, stored: Grey) -> npt.NDArray[np.bool_]:
    """Where the file says that there is no image, only padding."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(stored.shape, np.bool_)
    last = dataset.get("PixelPaddingRangeLimit", first)
    low, high = sorted(_as_stored(one, stored) for one in (first, last if isinstance(last, int) else first))
    return np.asarray((stored >= low) & (stored <= high))


def _as_stored(value: int, stored: Grey) -> int:
    """A value that was written as if without a sign, 63536 for -2000, as signed pixels hold it."""
    bits = stored.dtype.itemsize * 8
    return value - (1 << bits) if stored.dtype.kind == "i" and value >= 1 << (bits - 1) else value
