"""Boxes drawn around things in a picture: the XML of the PASCAL VOC challenge, which most drawing programs write.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge (2010). Its pixels are counted from 1 and both ends
belong to the box; here boxes are (row, column), counted from 0 and half-open. `_box` is the only place where they meet.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from medvision.core.errors import AnnotationError
from medvision.core.geometry import Box


@dataclass(frozen=True, slots=True)
class NamedBox:
    """One thing: what it is and the pixels around it. A box may reach beyond the picture."""

    name: str
    box: Box


@dataclass(frozen=True, slots=True)
class BoxedPicture:
    """What was drawn on one picture: the name of its file and, where it is said, its shape (rows, columns)."""

    filename: str
    shape: tuple[int, int] | None
    boxes: tuple[NamedBox, ...]


def read_voc(path: Path) -> BoxedPicture:
    """Read one XML file of the PASCAL VOC challenge; objects marked difficult or truncated are there like others.

    Raises:
        AnnotationError: if it is not such a file or names no picture, or if an object has no name or no box of positive
            size.
    """
    try:
        root = defusedxml.ElementTree.fromstring(path.read_bytes())
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    except (ET.ParseError, DefusedXmlException, ValueError) as error:
        raise AnnotationError(f"{path}: not XML that can be read: {error}") from error
    if root.tag != "annotation":
        raise AnnotationError(f"{path}: root element <{root.tag}>; known: <annotation> of PASCAL VOC")
    filename = (root.findtext("filename") or "").strip()
    if not filename:
        raise AnnotationError(f"{path}: no <filename>, so that nothing says on which picture it was drawn")
    boxes = []
    for number, element in enumerate(root.iterfind("object"), start=1):
        where = f"{path}: object {number}"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise AnnotationError(f"{where} has no <name>")
        boxes.append(NamedBox(name, _box(element, f"{where} ({name})")))
    return BoxedPicture(filename, _shape(root), tuple(boxes))


def _box(element: ET.Element, where: str) -> Box:
    left, top, right, bottom = (
        _number(element, f"bndbox/{key}", where) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    if not (left < right and top < bottom):
        raise AnnotationError(
            f"{where}: box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) has no positive size"
        )
    start = max(0, math.floor(top) - 1), max(0, math.floor(left) - 1)
    return Box(start, (max(start[0] + 1, math.ceil(bottom)), max(start[1] + 1, math.ceil(right))))


def _number(element: ET.Element, key: str, where: str) -> float:
    text = element.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"{where}: <{key.rpartition('/')[2]}> is {text!r}, not a number")
    return value


def _shape(root: ET.Element) -> tuple[int, int] | None:
    """Rows and columns; None where they are absent, or 0 as some programs write for not known."""
    try:
        rows, columns = (int(root.findtext(f"size/{key}") or "0") for key in ("height", "width"))
    except ValueError:
        return None
    return (rows, columns) if rows > 0 and columns > 0 else None
