"""Annotations drawn on slides: ASAP XML, QuPath GeoJSON and the JSON of NCRF's CAMELYON16 polygons.

Inside, points are (row, column) in level-0 pixels, where (0, 0) is the corner of the first pixel and its centre lies at
(0.5, 0.5). The files hold (x, y) = (column, row); `_from_xy` and `_to_xy` are the only places where the two meet.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, groupby
from pathlib import Path
from typing import Any, Literal, get_args

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException

from medvision.core.errors import AnnotationError
from medvision.ops.rasterise import Points, Polygon

Kind = Literal["polygon", "spline", "rectangle", "dot", "pointset", "line"]
"""What was drawn. A spline is kept as the points it runs through, and counts as the polygon of these."""

AREAS: tuple[Kind, ...] = ("polygon", "spline", "rectangle")
"""The kinds that enclose an area."""

CAMELYON_POSITIVE = ("Tumor", "_0", "_1", "positive")
CAMELYON_EXCLUDED = ("_2", "Exclusion", "None", "negative")

_ASAP_KINDS: dict[str, Kind] = {
    "Polygon": "polygon",
    "Spline": "spline",
    "Rectangle": "rectangle",
    "Dot": "dot",
    "PointSet": "pointset",
}
_GEOJSON_KINDS = ("Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString")
_YELLOW = (244, 250, 88)
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, eq=False)
class Annotation:
    """One thing drawn on a slide.

    `points` is float64 (n, 2), (row, column) in level-0 pixels; rings are open: the first point is not repeated at the
    end. `holes` are rings cut out of a polygon. `group` is ASAP's group or QuPath's class, "" for none. `measurements`
    are named numbers that QuPath shows in its table.

    Raises:
        AnnotationError: if the kind is unknown, or `points` or a hole is empty, misshapen or not finite.
    """

    name: str
    group: str
    kind: Kind
    points: Points
    holes: tuple[Points, ...] = ()
    color: tuple[int, int, int] | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise AnnotationError(
                f"annotation {self.name!r}: kind {self.kind!r}; known: {_list(get_args(Kind))}"
            )
        for ring in (self.points, *self.holes):
            if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) == 0 or not np.isfinite(ring).all():
                raise AnnotationError(
                    f"annotation {self.name!r}: points of shape {ring.shape} are not n finite (row, column) pairs"
                )


def read_annotations(path: Path) -> list[Annotation]:
    """Read ASAP XML, QuPath GeoJSON or NCRF JSON, told apart by content, not by name.

    Raises:
        AnnotationError: if the file is none of these, or breaks its format's rules.
    """
    start = _read_text(path).lstrip()[:1]
    if start == "<":
        return read_asap(path)
    if start not in ("{", "["):
        raise AnnotationError(f"{path}: starts with {start!r}; known: ASAP XML, QuPath GeoJSON, NCRF JSON")
    data = _load_json(path)
    if isinstance(data, dict) and ("positive" in data or "negative" in data):
        return read_ncrf(path)
    return read_geojson(path)


def read_asap(path: Path) -> list[Annotation]:
    """Read the XML of ASAP (https://computationalpathologygroup.github.io/ASAP/), the format of CAMELYON's truth.

    Coordinates are taken by their `Order`; a rectangle given by two opposite corners gets all four.

    Raises:
        AnnotationError: if the file is not ASAP XML, or an annotation has an unknown type, no coordinates, or a
            coordinate that is not a number.
    """
    try:
        root = defusedxml.ElementTree.fromstring(_read_text(path).encode())
    except (ET.ParseError, DefusedXmlException) as error:
        raise AnnotationError(f"{path}: not XML that can be read: {error}") from error
    if root.tag != "ASAP_Annotations":
        raise AnnotationError(f"{path}: root element <{root.tag}>; known: <ASAP_Annotations>")
    found = []
    for element in root.iterfind("Annotations/Annotation"):
        where = f"{path}: annotation {element.get('Name')!r}"
        kind = _ASAP_KINDS.get(element.get("Type", ""))
        if kind is None:
            raise AnnotationError(f"{where} has Type {element.get('Type')!r}; known: {_list(_ASAP_KINDS)}")
        points = _asap_points(element, where)
        if kind == "rectangle" and len(points) == 2:
            (r0, c0), (r1, c1) = points
            points = np.array([(r0, c0), (r0, c1), (r1, c1), (r1, c0)])
        group = element.get("PartOfGroup", "None")
        color = _hex_color(element.get("Color"))
        found.append(Annotation(element.get("Name", ""), group, kind, points, color=color))
    return found


def write_asap(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write ASAP XML: same annotations, same bytes. Coordinate's X is the column and Y the row.

    ASAP knows no holes: each is written as a polygon of its own in the group "Exclusion", which CAMELYON's rules cut
    out. A line becomes a spline, the nearest that ASAP has. No group is written as ASAP does, "None".
    """
    root = ET.Element("ASAP_Annotations")
    drawn = ET.SubElement(root, "Annotations")
    groups: dict[str, str] = {}
    types = {kind: name for name, kind in _ASAP_KINDS.items()} | {"line": "Spline"}
    for one in annotations:
        color = "#{:02X}{:02X}{:02X}".format(*(one.color or _YELLOW))
        parts = [(one.name, one.group or "None", types[one.kind], one.points)]
        parts += [(f"{one.name} hole {i}", "Exclusion", "Polygon", hole) for i, hole in enumerate(one.holes)]
        for name, group, kind, points in parts:
            _refuse_control_characters(path, name, group)
            attributes = {"Name": name, "Type": kind, "PartOfGroup": group, "Color": color}
            coordinates = ET.SubElement(ET.SubElement(drawn, "Annotation", attributes), "Coordinates")
            for order, (x, y) in enumerate(_to_xy(points)):
                numbers = {"Order": str(order), "X": _number(x), "Y": _number(y)}
                ET.SubElement(coordinates, "Coordinate", numbers)
            if group != "None":
                groups.setdefault(group, color)
    listed = ET.SubElement(root, "AnnotationGroups")
    for name, color in groups.items():
        entry = ET.SubElement(listed, "Group", {"Name": name, "PartOfGroup": "None", "Color": color})
        ET.SubElement(entry, "Attributes")
    ET.indent(root, "\t")
    _write_text(path, '<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode") + "\n")


def read_geojson(path: Path) -> list[Annotation]:
    """Read GeoJSON as QuPath exports it: one Feature, a list of them, or a FeatureCollection.

    Each polygon of a MultiPolygon becomes one annotation. The class of a feature is its `group`. A third coordinate is
    dropped, and so is a cell's nucleus.

    Raises:
        AnnotationError: if the file is not GeoJSON, or a geometry is unknown or malformed.
    """
    data = _load_json(path)
    features = data.get("features") if isinstance(data, dict) and "features" in data else data
    if isinstance(features, dict):
        features = [features]
    if not isinstance(features, list):
        raise AnnotationError(
            f"{path}: holds no list of features; known: Feature, FeatureCollection, list of features"
        )
    found: list[Annotation] = []
    for number, feature in enumerate(features):
        where = f"{path}: feature {number}"
        if not isinstance(feature, dict) or not isinstance(feature.get("geometry"), dict):
            raise AnnotationError(f"{where} is not a Feature with a geometry")
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        name = str(properties.get("name") or "")
        group, color = _classification(properties)
        measurements = _measurements(properties.get("measurements"), where)
        for kind, points, holes in _geometry(feature["geometry"], where):
            found.append(Annotation(name, group, kind, points, holes, color, measurements))
    return found


def write_geojson(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write a FeatureCollection that QuPath opens: (x, y) in level-0 pixels; same annotations, same bytes.

    Polygons that follow each other under one name, with equal class and measurements, are parts of one thing and
    become one feature, a MultiPolygon; `read_geojson` takes it apart again. A ring of one or two points gets its last
    one again, as a ring of GeoJSON has four positions at least. Measurements that are no finite number, which QuPath
    exports as NaN, are left out, since JSON knows none. Annotations are written as they come, none is kept.
    """

    def pieces() -> Iterator[str]:
        yield '{"type":"FeatureCollection","features":['
        for number, (_, parts) in enumerate(groupby(annotations, partial(_thing, apart=count(1)))):
            feature = _feature(number, list(parts))
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            yield f",{text}" if number else text
        yield "]}\n"

    _write_text(path, pieces())


def read_ncrf(path: Path) -> list[Annotation]:
    """Read the JSON form of CAMELYON16's truth used by NCRF: lists `positive` and `negative` of named vertices.

    The list's name becomes the group.

    Raises:
        AnnotationError: if the file has neither list, or a polygon is malformed.
    """
    data = _load_json(path)
    if not isinstance(data, dict) or not ("positive" in data or "negative" in data):
        raise AnnotationError(f"{path}: has neither of the lists 'positive' and 'negative' of NCRF JSON")
    found = []
    for group in ("positive", "negative"):
        entries = data.get(group, [])
        if not isinstance(entries, list):
            raise AnnotationError(f"{path}: {group!r} is not a list of polygons")
        for number, entry in enumerate(entries):
            where = f"{path}: {group} polygon {number}"
            if not isinstance(entry, dict):
                raise AnnotationError(f"{where} is not an object with name and vertices")
            ring = _ring(entry.get("vertices"), where)
            found.append(Annotation(str(entry.get("name", "")), group, "polygon", ring))
    return found


def camelyon_polygons(annotations: Sequence[Annotation]) -> tuple[list[Polygon], list[Polygon]]:
    """Tumour polygons and the polygons to cut out of them, by CAMELYON's groups.

    Groups Tumor, _0, _1 (and NCRF's positive) are tumour; _2, Exclusion, None (and negative) are cut out last, whatever
    tumour they lie in. Dots and lines have no area and are left out.

    Raises:
        AnnotationError: if an area is in another group, because leaving it out or counting it would both be a guess.
    """
    positive: list[Polygon] = []
    excluded: list[Polygon] = []
    for one in annotations:
        if one.kind not in AREAS:
            continue
        if one.group in CAMELYON_POSITIVE:
            positive.append((one.points, one.holes))
        elif one.group in CAMELYON_EXCLUDED:
            excluded.append((one.points, one.holes))
        else:
            known = _list([*CAMELYON_POSITIVE, *CAMELYON_EXCLUDED])
            raise AnnotationError(
                f"annotation {one.name!r} is in group {one.group!r}; known to CAMELYON: {known}"
            )
    return positive, excluded


def _from_xy(pairs: Any, where: str) -> Points:
    """(x, y) pairs of a file, a third value dropped, as (row, column)."""
    try:
        points = np.array([(pair[1], pair[0]) for pair in pairs], dtype=np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise AnnotationError(
            f"{where}: coordinates are not a list of numeric (x, y) pairs: {error}"
        ) from error
    if len(points) == 0 or not np.isfinite(points).all():
        raise AnnotationError(
            f"{where}: has {len(points)} coordinates; at least one is needed, and all finite"
        )
    return points


def _to_xy(points: Points) -> list[tuple[float, float]]:
    return [(float(column), float(row)) for row, column in points]


def _ring(pairs: Any, where: str) -> Points:
    """A ring of a file as open ring."""
    points = _from_xy(pairs, where)
    return points[:-1] if len(points) > 1 and (points[0] == points[-1]).all() else points


def _asap_points(element: ET.Element, where: str) -> Points:
    rows = []
    for number, one in enumerate(element.iterfind("Coordinates/Coordinate")):
        try:
            rows.append((float(one.get("Order", number)), float(one.attrib["X"]), float(one.attrib["Y"])))
        except (KeyError, ValueError) as error:
            raise AnnotationError(
                f"{where}: <Coordinate> {number} {one.attrib} lacks numeric X and Y"
            ) from error
    rows.sort(key=lambda row: row[0])
    return _ring([(x, y) for _, x, y in rows], where)


def _geometry(geometry: dict[str, Any], where: str) -> Iterator[tuple[Kind, Points, tuple[Points, ...]]]:
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in _GEOJSON_KINDS:
        raise AnnotationError(f"{where}: geometry {kind!r}; known: {_list(_GEOJSON_KINDS)}")
    if not isinstance(coordinates, list) or not coordinates:
        raise AnnotationError(f"{where}: {kind} without coordinates")
    if kind == "Point":
        yield "dot", _from_xy([coordinates], where), ()
    elif kind == "MultiPoint":
        yield "pointset", _from_xy(coordinates, where), ()
    elif kind == "LineString":
        yield "line", _from_xy(coordinates, where), ()
    else:
        for rings in [coordinates] if kind == "Polygon" else coordinates:
            if not isinstance(rings, list) or not rings:
                raise AnnotationError(f"{where}: {kind} without a ring")
            outer, *holes = (_ring(ring, where) for ring in rings)
            yield "polygon", outer, tuple(holes)


def _thing(one: Annotation, apart: Iterator[int]) -> tuple[object, ...]:
    """What parts of one thing share; of its own for whatever is no named polygon."""
    alone = 0 if one.kind == "polygon" and one.name else next(apart)
    return one.name, one.group, one.color, tuple(one.measurements.items()), alone


def _feature(number: int, parts: list[Annotation]) -> dict[str, Any]:
    one = parts[0]
    closed = [[_closed(ring) for ring in (part.points, *part.holes)] for part in parts]
    pairs = [list(p) for p in _to_xy(one.points)]
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": closed[0]}
    if len(parts) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": closed}
    elif one.kind == "dot":
        geometry = {"type": "Point", "coordinates": pairs[0]}
    elif one.kind == "pointset":
        geometry = {"type": "MultiPoint", "coordinates": pairs}
    elif one.kind == "line":
        geometry = {"type": "LineString", "coordinates": pairs}
    properties: dict[str, Any] = {"objectType": "annotation", "name": one.name, "isLocked": False}
    if one.group:
        red, green, blue = one.color or _YELLOW
        # QuPath packs a class's colour as Java does: opaque ARGB in a signed 32-bit integer.
        packed = (255 << 24 | red << 16 | green << 8 | blue) - (1 << 32)
        properties["classification"] = {"name": one.group, "colorRGB": packed}
    if one.color is not None:
        properties["color"] = list(one.color)
    properties["measurements"] = [
        {"name": k, "value": float(v)} for k, v in one.measurements.items() if math.isfinite(v)
    ]
    # A name-based id: QuPath wants a UUID, and equal input must give equal bytes.
    content = json.dumps([number, geometry, properties], allow_nan=False)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, content)),
        "geometry": geometry,
        "properties": properties,
    }


def _closed(ring: Points) -> list[list[float]]:
    """(x, y) pairs with the first one again at the end, four at least, as GeoJSON wants."""
    pairs = [list(pair) for pair in _to_xy(ring)]
    pairs += [pairs[-1]] * (3 - len(pairs))
    return [*pairs, pairs[0]]


def _classification(properties: Mapping[str, Any]) -> tuple[str, tuple[int, int, int] | None]:
    """Class name and colour; the class's own colour before the object's."""
    given = properties.get("classification")
    given = given if isinstance(given, dict) else {}
    names = given.get("names")
    name = given.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else "")
    packed, listed = given.get("colorRGB"), given.get("color", properties.get("color"))
    color = None
    if isinstance(packed, int):
        color = (packed >> 16 & 255, packed >> 8 & 255, packed & 255)
    elif isinstance(listed, list) and len(listed) >= 3 and all(isinstance(v, int) for v in listed[:3]):
        color = (listed[0] & 255, listed[1] & 255, listed[2] & 255)
    return str(name), color


def _measurements(given: Any, where: str) -> dict[str, float]:
    """Measurements from either of QuPath's forms: a list of name and value, or an object."""
    try:
        pairs = given.items() if isinstance(given, dict) else [(m["name"], m["value"]) for m in given or []]
        return {str(name): float(value) for name, value in pairs}
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{where}: measurements are not names with numbers: {error}") from error


def _hex_color(text: str | None) -> tuple[int, int, int] | None:
    if text is None or not re.fullmatch("#[0-9a-fA-F]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _refuse_control_characters(path: Path, *texts: str) -> None:
    for text in texts:
        if _NOT_IN_XML.search(text):
            raise AnnotationError(f"{path}: {text!r} holds a character that XML cannot")


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as text: {error}") from error


def _load_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON that can be read: {error}") from error


def _write_text(path: Path, text: str | Iterator[str]) -> None:
    """Write beside, then rename, so that no partial file ever has the final name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines([text] if isinstance(text, str) else text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
