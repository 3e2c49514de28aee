"""Still images in PNG, JPEG, BMP and WebP files, and in the TIFFs that `still_tiff` leaves."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from medvision.core.errors import SourceTooLargeError, UnreadableSourceError, UsageError
from medvision.sources.base import Pixels
from medvision.sources.faults import MAX_FLAT_PIXELS, check_pixels, check_shape, quiet
from medvision.sources.still_image import AS_STORED, WINDOWS, StillImage, Window, Windowing, windowed
from medvision.sources.tiff_codec import on_white, turned

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# MPO: what many cameras write, a JPEG photograph with previews behind it.
_KINDS = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WebP", "BMP": "BMP", "TIFF": "TIFF"}
_ORIENTATION = 274
_TOP = 65535.0


def read_picture(data: bytes, digest: str, window: Window) -> StillImage:
    """The image in a file's bytes. See `medvision.sources.still.read_still`."""
    picture, orientation = _opened(BytesIO(data))
    with picture:
        kind = _KINDS[str(picture.format)]
        if kind == "PNG" and data[24] == 16:
            return _deep_png(data, orientation, digest, window)
        pixels = _shallow(picture)
    bits = 1 if picture.mode == "1" else 8
    if kind != "TIFF":  # Pillow turns those itself
        pixels = np.ascontiguousarray(turned(pixels, orientation))
    return StillImage(pixels, AS_STORED, bits, kind, digest)


def look_at_picture(stream: BinaryIO) -> None:
    """Read the header of a file that is open. See `medvision.sources.still.look_at_still`."""
    _opened(stream)[0].close()


def _opened(stream: BinaryIO) -> tuple[Picture, int]:
    """A picture that may be decoded, and its orientation (EXIF)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with quiet():  # decoding itself goes on in several threads
            picture = Image.open(stream, formats=[name for name in _KINDS if name != "MPO"])
            return picture, _check(picture)
    except UnidentifiedImageError as error:
        raise UnreadableSourceError(
            "not an image of a known kind, or its header is damaged; readable are PNG, JPEG, BMP, WebP, TIFF and DICOM"
        ) from error
    except Image.DecompressionBombError as error:
        raise SourceTooLargeError(str(error)) from error


def grey_on_white(
    grey: npt.NDArray[np.uint16],
    alpha: npt.NDArray[np.uint16] | None,
    window: Window,
    top: float,
    inverted: bool = False,
) -> tuple[Pixels, Windowing]:
    """Deep grey `(rows, columns)` of 0..`top` through a window, then laid over white by `alpha` where there is one."""
    if window is None:
        raise UsageError(
            "grey of more than 8 bits, and no window is given (--image-window; in a training `images: {window: ...}`): "
            f"choose {WINDOWS}"
        )
    pixels, windowing = windowed(grey, window, (0.0, top))
    if inverted:
        pixels = 255 - pixels
        windowing = Windowing(windowing.how, windowing.low, windowing.high, inverted=True)
    if alpha is not None:
        pixels = on_white(pixels[..., None], _eight(alpha))[..., 0]
    return pixels, windowing


def _check(picture: Picture) -> int:
    """The orientation (EXIF) of a picture that may be decoded."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise UnreadableSourceError(
            f"holds {frames} images, and only a single one is read; save one of them alone"
        )
    shape = (picture.height, picture.width)
    check_shape("the picture", shape)
    check_pixels("the picture", shape, MAX_FLAT_PIXELS)
    orientation = picture.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _shallow(picture: Picture) -> Pixels:
    """Grey or RGB of at most 8 bits a sample, as stored."""
    from PIL import Image

    picture.load()
    if picture.mode in ("1", "L") and not picture.has_transparency_data:
        return np.array(picture.convert("L"))
    if picture.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise UnreadableSourceError(f"pixels of mode {picture.mode!r}; convert the file to grey or RGB")
    if not picture.has_transparency_data:
        return np.array(picture.convert("RGB"))
    seen = picture.convert("RGBA")
    white = Image.new("RGB", seen.size, "white")
    white.paste(seen, mask=seen)
    # A grey image stays one: its three channels are equal by construction.
    return np.array(white)[..., 0] if picture.mode in ("1", "L", "LA", "La") else np.array(white)


def _deep_png(data: bytes, orientation: int, digest: str, window: Window) -> StillImage:
    """A PNG of 16 bits a sample, of which Pillow would keep 8."""
    import imagecodecs

    values: npt.NDArray[np.uint16] = imagecodecs.png_decode(data)
    if values.dtype != np.uint16:
        raise UnreadableSourceError(f"a PNG of 16 bits that is decoded as {values.dtype}")
    values = np.ascontiguousarray(turned(values.reshape(*values.shape[:2], -1), orientation))
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    if values.shape[2] <= 2:
        pixels, windowing = grey_on_white(values[..., 0], alpha, window, _TOP)
    else:
        pixels, windowing = _eight(values[..., :3]), Windowing("full range", 0.0, _TOP)
        if alpha is not None:
            pixels = on_white(pixels, _eight(alpha))
    return StillImage(pixels, windowing, 16, "PNG", digest)


def _eight(values: npt.NDArray[np.uint16]) -> Pixels:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
