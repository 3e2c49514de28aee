"""The small pictures of the index page: inside it for a few slides, files beside it for many."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from PIL import Image

from medvision.core.digest import digest_file, digest_json
from medvision.core.errors import StoreError
from medvision.report.pictures import Picture, inside, load_picture, small_overlay
from medvision.store.files import THUMBNAILS, atomic_write
from medvision.store.manifest import read_manifest

EMBEDDED = 100
"""Slides up to which a page holds its pictures itself, so that it can be sent as one file."""
SIDE = 200

_NAME = re.compile(r"(.+)-[0-9a-f]{12}\.jpg")


@dataclass(frozen=True)
class Thumbnail:
    """A picture as the page shows it; `address` is its data, or a file beside the page, which is loaded when seen."""

    address: str
    width: int
    height: int
    alt: str
    lazy: bool


def embedded(slide: Path, images: dict[str, str], heat: bool, alt: str) -> Thumbnail | None:
    """The slide's picture, with the heat over it, as data; None where the result has none.

    Raises:
        StoreError: if a picture is missing or broken.
    """
    if "thumbnail" not in images:
        return None
    picture = _drawn(slide, images, heat, alt)
    return Thumbnail(picture.uri, picture.width, picture.height, alt, lazy=False)


def beside(page: Path, slide: Path, images: dict[str, str], heat: bool, alt: str) -> Thumbnail | None:
    """The same as a file in `thumbnails/` beside `page`, drawn only if the slide's pictures are not those it is of.

    Raises:
        StoreError: if a picture is missing or broken, or the file cannot be written.
    """
    if "thumbnail" not in images:
        return None
    folder = page.parent / THUMBNAILS
    if folder.is_symlink():
        raise StoreError(f"{folder} is a symbolic link, and links are not followed in an output folder")
    path = folder / f"{slide.name}-{_of(slide, images, heat)}.jpg"
    size = _size(path)
    if size is None:
        picture = _drawn(slide, images, heat, alt)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: could not be made: {error.strerror}") from error
        atomic_write(path, picture.data)
        size = picture.width, picture.height
    return Thumbnail(f"./{THUMBNAILS}/{quote(path.name)}", *size, alt, lazy=True)


def remove_older(page: Path, slides: Collection[str], shown: Collection[str]) -> None:
    """Remove from `thumbnails/` what was drawn of these slides and is not among the addresses `shown`."""
    folder = page.parent / THUMBNAILS
    if not folder.is_dir() or folder.is_symlink():
        return
    kept = {unquote(Path(address).name) for address in shown}
    for path in folder.iterdir():
        ours = _NAME.fullmatch(path.name)
        if ours is not None and ours[1] in slides and path.name not in kept:
            path.unlink(missing_ok=True)


def _drawn(slide: Path, images: dict[str, str], heat: bool, alt: str) -> Picture:
    thumbnail = load_picture(slide, images["thumbnail"], alt)
    heatmap = load_picture(slide, images["heatmap"], "") if heat and "heatmap" in images else None
    return small_overlay(thumbnail, heatmap, SIDE)


def _of(slide: Path, images: dict[str, str], heat: bool) -> str:
    """What a picture is made of, in 12 hexadecimal digits; the manifest knows the files' digests."""
    names = [images[kind] for kind in ("thumbnail", "heatmap") if kind in images]
    manifest = read_manifest(slide)
    listed = {} if manifest is None else manifest.files
    digests = [listed.get(name) or digest_file(inside(slide, name)) for name in names]
    return digest_json({"files": digests, "heat": heat, "side": SIDE})[:12]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            return image.size
    except (OSError, SyntaxError):
        return None
