"""Reading and writing annotations: real files of each kind, round trips, and errors that name the culprit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shapely

from medvision.core.errors import AnnotationError
from medvision.sources.annotations import (
    Annotation,
    camelyon_polygons,
    read_annotations,
    read_asap,
    read_geojson,
    read_ncrf,
    write_asap,
    write_geojson,
)

SQUARE = np.array([(10.0, 20.0), (10.0, 40.5), (30.25, 40.5), (30.25, 20.0)])
HOLE = np.array([(15.0, 25.0), (15.0, 30.0), (20.0, 30.0)])


def one_of_each():
    return [
        Annotation("area", "Tumor", "polygon", SQUARE, (HOLE,), (200, 0, 10), {"area_um2": 12.5}),
        Annotation("curve", "_1", "spline", SQUARE),
        Annotation("box", "_2", "rectangle", SQUARE),
        Annotation("here", "None", "dot", SQUARE[:1]),
        Annotation('<many> & "more" é', "None", "pointset", SQUARE),
    ]


def same(a, b):
    assert (a.name, a.group, a.kind) == (b.name, b.group, b.kind)
    np.testing.assert_array_equal(a.points, b.points)
    assert len(a.holes) == len(b.holes)
    for one, other in zip(a.holes, b.holes, strict=True):
        np.testing.assert_array_equal(one, other)


def test_asap_round_trip(tmp_path):
    path = tmp_path / "a.xml"
    write_asap(path, one_of_each())
    got = read_annotations(path)
    # ASAP has no holes: the hole comes back as an exclusion of its own, which cuts the same area out.
    assert [one.group for one in got] == ["Tumor", "Exclusion", "_1", "_2", "None", "None"]
    hole = got.pop(1)
    np.testing.assert_array_equal(hole.points, HOLE)
    for a, b in zip(one_of_each(), got, strict=True):
        same(Annotation(a.name, a.group, a.kind, a.points), b)
    assert got[0].color == (200, 0, 10)
    first = path.read_bytes()
    write_asap(path, one_of_each())
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_no_partial_file(tmp_path):
    (tmp_path / "a.xml").mkdir()
    with pytest.raises(OSError, match=r"a\.xml"):
        write_asap(tmp_path / "a.xml", [])
    assert [path.name for path in tmp_path.iterdir()] == ["a.xml"]


def test_asap_x_is_the_column(tmp_path):
    path = tmp_path / "a.xml"
    write_asap(path, [Annotation("p", "Tumor", "dot", np.array([(7.0, 3.5)]))])
    assert '<Coordinate Order="0" X="3.5" Y="7" />' in path.read_text()
    assert '<Group Name="Tumor" PartOfGroup="None"' in path.read_text()


def test_asap_coordinates_are_taken_by_order_and_rectangles_completed(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="r" Type="Rectangle" PartOfGroup="Tumor"><Coordinates>'
        '<Coordinate Order="1" X="8" Y="6"/><Coordinate Order="0" X="2" Y="1"/>'
        "</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    assert read_asap(path)[0].points.tolist() == [[1, 2], [1, 8], [6, 8], [6, 2]]
    path.write_text(path.read_text().replace("Rectangle", "PointSet"))
    assert read_asap(path)[0].points.tolist() == [[1, 2], [6, 8]]


def test_geojson_round_trip(tmp_path):
    path = tmp_path / "a.geojson"
    given = [*one_of_each(), Annotation("way", "", "line", SQUARE[:2])]
    write_geojson(path, given)
    got = read_annotations(path)
    for a, b in zip(given, got, strict=True):
        kind = "polygon" if a.kind in ("spline", "rectangle") else a.kind
        same(Annotation(a.name, a.group, kind, a.points, a.holes), b)
    assert got[0].color == (200, 0, 10)
    assert got[0].measurements == {"area_um2": 12.5}
    first = path.read_bytes()
    write_geojson(path, given)
    assert path.read_bytes() == first


def test_geojson_is_what_qupath_expects(tmp_path):
    path = tmp_path / "a.geojson"
    write_geojson(path, one_of_each()[:1])
    data = json.loads(path.read_text())
    assert data["type"] == "FeatureCollection"
    (feature,) = data["features"]
    outer, hole = feature["geometry"]["coordinates"]
    assert outer == [[20, 10], [40.5, 10], [40.5, 30.25], [20, 30.25], [20, 10]]
    assert hole[0] == hole[-1] == [25, 15]
    properties = feature["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"] == {"name": "Tumor", "colorRGB": -3670006}  # 0xFFC8000A as a Java int
    assert properties["measurements"] == [{"name": "area_um2", "value": 12.5}]
    assert len(feature["id"]) == 36


@pytest.mark.parametrize("wrap", ["feature", "list", "collection"])
def test_geojson_forms_of_one_multipolygon(tmp_path, wrap):
    ring = [[0, 0], [4, 0], [4, 4], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {
            "type": "MultiPolygon",
            "coordinates": [[ring], [ring, [[1, 1], [2, 1], [2, 2], [1, 1]]]],
        },
        "properties": {"classification": {"name": "Tumor", "color": [1, 2, 3]}, "measurements": {"n": 2}},
    }
    data = {"feature": feature, "list": [feature], "collection": {"features": [feature]}}[wrap]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    got = read_annotations(path)
    assert [(one.kind, one.group, one.color, len(one.points), len(one.holes)) for one in got] == [
        ("polygon", "Tumor", (1, 2, 3), 3, 0),
        ("polygon", "Tumor", (1, 2, 3), 3, 1),
    ]
    assert got[0].points[1].tolist() == [0, 4]
    assert got[0].measurements == {"n": 2}


def test_measurements_that_qupath_exports_as_nan_do_not_spoil_the_next_file(tmp_path):
    path, copy = tmp_path / "a.geojson", tmp_path / "b.geojson"
    write_geojson(path, one_of_each()[:1])
    path.write_text(path.read_text().replace('"value":12.5}', '"value":12.5},{"name":"od","value":NaN}'))
    got = read_geojson(path)
    assert np.isnan(got[0].measurements["od"])
    write_geojson(copy, got)
    assert read_geojson(copy)[0].measurements == {"area_um2": 12.5}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_ring_has_four_positions_whatever_was_drawn(tmp_path, count):
    path = tmp_path / "a.geojson"
    write_geojson(path, [Annotation("slip of the pen", "Tumor", "polygon", SQUARE[:count])])
    (feature,) = json.loads(path.read_text())["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert len(ring) == 4
    assert ring[0] == ring[-1]
    assert shapely.from_geojson(json.dumps(feature["geometry"])).area == (0 if count < 3 else 207.5625)


def test_camelyon_groups():
    given = [
        Annotation(group, group, "polygon", SQUARE)
        for group in ("Tumor", "_0", "_1", "_2", "Exclusion", "None")
    ]
    positive, excluded = camelyon_polygons([*given, Annotation("d", "Tumor", "dot", SQUARE[:1])])
    assert (len(positive), len(excluded)) == (3, 3)
    with pytest.raises(AnnotationError, match="group 'Fat'; known to CAMELYON: Tumor"):
        camelyon_polygons([Annotation("x", "Fat", "polygon", SQUARE)])


ASAP = '<ASAP_Annotations><Annotations><Annotation Name="n" Type="{}">{}</Annotation></Annotations></ASAP_Annotations>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "starts with ''; known: ASAP XML"),
        ("hello", "starts with 'h'"),
        ("<ASAP_Annotations>", "not XML"),
        ("<svg/>", "root element <svg>; known: <ASAP_Annotations>"),
        (
            ASAP.format("Circle", ""),
            "'n' has Type 'Circle'; known: Polygon, Spline, Rectangle, Dot, PointSet",
        ),
        (ASAP.format("Dot", ""), "'n': has 0 coordinates"),
        (ASAP.format("Dot", '<Coordinates><Coordinate Order="0" X="1"/></Coordinates>'), "<Coordinate> 0"),
        (
            ASAP.format("Dot", '<Coordinates><Coordinate Order="0" X="1" Y="nan"/></Coordinates>'),
            "all finite",
        ),
        ('<!DOCTYPE a [<!ENTITY b "c">]><ASAP_Annotations/>', "not XML"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a": 1}', "feature 0 is not a Feature"),
        (
            '[{"geometry": {"type": "Circle", "coordinates": [1]}}]',
            "'Circle'; known: Polygon, MultiPolygon, Point",
        ),
        ('[{"geometry": {"type": "Polygon", "coordinates": []}}]', "without coordinates"),
        ('[{"geometry": {"type": "Polygon", "coordinates": [[["a", 1]]]}}]', "numeric"),
        ('[{"geometry": {"type": "Point", "coordinates": [1]}}]', "numeric"),
        (
            '[{"geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {"measurements": [1]}}]',
            "measurem",
        ),
        ('{"positive": [{"name": "x"}]}', "positive polygon 0"),
        ('{"negative": ["x"]}', "negative polygon 0"),
        ('{"negative": 1}', "'negative' is not a list"),
        ('[{"geometry": {"type": "Point", "coordinates": [1, 1' + "0" * 400 + "]}}]", "numeric"),
        ("[1" + "0" * 5000 + "]", "not JSON"),
    ],
)
def test_errors_name_file_and_element(tmp_path, text, message):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message.replace("[", r"\[")) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_other_errors(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path / "absent")
    with pytest.raises(AnnotationError, match="character that XML cannot"):
        write_asap(tmp_path / "a.xml", [Annotation("\x00", "", "dot", SQUARE[:1])])
    with pytest.raises(AnnotationError, match="known: polygon"):
        Annotation("x", "", "circle", SQUARE)
    with pytest.raises(AnnotationError, match=r"shape \(4,\)"):
        Annotation("x", "", "dot", SQUARE[:, 0])
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(AnnotationError, match="neither of the lists"):
        read_ncrf(tmp_path / "b.json")
    assert list(tmp_path.glob("a.xml")) == []


@pytest.mark.shared
def test_real_samples_of_every_kind(shared: Path):
    folder = shared / "slides" / "wsidicom_annotations" / "annotation"
    asap = {path.stem: read_asap(path) for path in (folder / "asap").glob("*.xml")}
    assert {name: (one.kind, len(one.points)) for name, (one,) in asap.items()} == {
        "asap-dot": ("dot", 1),
        "asap-pointset": ("pointset", 5),
        "asap-polygon": ("polygon", 6),
    }
    np.testing.assert_allclose(asap["asap-dot"][0].points, [(16831.0098, 23071.5605)])
    kinds = Counter(read_geojson(path)[0].kind for path in (folder / "qupath_geojson").glob("*.json"))
    assert kinds == {"polygon": 5, "line": 2, "dot": 1, "pointset": 1}
    cells = read_geojson(folder / "qupath_geojson_advanced" / "qupath-polygon-cell-classified.json")
    assert [(one.group, one.color) for one in cells] == [
        ("Cell", (127, 220, 58)),
        ("Cell", (127, 220, 58)),
        ("Nucleus", (184, 115, 67)),
        ("Nucleus", (184, 115, 67)),
    ]
    assert len(read_geojson(shared / "slides" / "large_image" / "sample.geojson")) == 10
    with pytest.raises(AnnotationError, match="not a Feature"):
        read_annotations(folder / "sectra" / "pathologycore-area.json")


@pytest.mark.shared
def test_real_camelyon17_annotation(shared: Path):
    path = shared / "histology" / "camelyon_asap_xml" / "patient_004_node_4.xml"
    got = read_annotations(path)
    assert [(one.group, one.kind, len(one.points)) for one in got] == [
        ("Tumor", "polygon", 8),
        ("Tumor", "polygon", 15),
        ("Tumor", "polygon", 12),
    ]
    assert got[0].points[0].tolist() == [88778.1016, 12711.2998]


@pytest.mark.shared
def test_real_patch_centres_lie_where_the_polygons_say(shared: Path):
    """The first 4,001 tumour centres lie inside (3,989) and the first 4,001 normal ones outside (all)."""
    folder = shared / "histology" / "camelyon_ncrf_json"
    slides = {
        path.stem: camelyon_polygons(read_annotations(path)) for path in (folder / "jsons").glob("*/*.json")
    }
    assert len(slides) == 16
    inside = {}
    for name in ("tumor", "normal"):
        lines = (folder / "coords" / f"{name}_valid.txt").read_text().splitlines()[:4001]
        rows = [(slide, float(x), float(y)) for slide, x, y in (line.split(",") for line in lines)]
        inside[name] = 0
        for slide in sorted({row[0] for row in rows}):
            points = np.array([(y, x) for s, x, y in rows if s == slide])
            positive, excluded = slides.get(slide, ((), ()))  # normal slides have no file
            hit = np.zeros(len(points), dtype=bool)
            for group, value in ((positive, True), (excluded, False)):
                for outer, _ in group:
                    hit[shapely.contains_xy(shapely.Polygon(outer), points)] = value
            inside[name] += int(hit.sum())
    assert inside["tumor"] == 3989
    assert inside["normal"] == 0
