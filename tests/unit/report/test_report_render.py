"""Rendering again from stored files, and the refusals: every way in which a result folder can be wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medvision.core.errors import StoreError, UsageError
from medvision.ops.overlay import colour_table
from medvision.report.build import build_report
from medvision.report.render import render_reports, write_report
from medvision.store.manifest import ResultSpec, seal, verify


def sealed(folder):
    write_report(folder)
    spec = ResultSpec(kind="analyze", name="node-07.svs", source="3f" * 32, model="a9" * 32)
    seal(folder, spec, of_run=("run.json", "report.html", "report.pdf"))
    return folder


def test_the_same_bytes_again(make_result):
    folder = sealed(make_result())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = render_reports(folder)
    assert [path.name for path in written] == ["report.html", "report.pdf"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_lost_or_altered_report_is_made_again(make_result):
    folder = sealed(make_result())
    html = (folder / "report.html").read_bytes()
    (folder / "report.html").write_text("edited")
    (folder / "report.pdf").unlink()
    render_reports(folder)
    assert (folder / "report.html").read_bytes() == html
    assert verify(folder) == ()


@pytest.mark.parametrize("name", ["heatmap.png", "region-01.jpg", "run.json", "result.json"])
def test_an_altered_result_is_refused(make_result, name):
    folder = sealed(make_result())
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(StoreError, match=f"{name} was altered"):
        render_reports(folder)


def test_a_run_folder(make_result, tmp_path):
    run = tmp_path / "run"
    for name in ("a", "b"):
        make_result(name, folder=run / name)
    names = [path.relative_to(run).as_posix() for path in render_reports(run)]
    assert names == ["a/report.html", "a/report.pdf", "b/report.html", "b/report.pdf", "index.html"]


def test_results_that_were_set_aside_are_passed_over(make_result, tmp_path):
    run = tmp_path / "run"
    for name in ("a", "a.set-aside-1"):
        make_result("a", folder=run / name)
    names = [path.relative_to(run).as_posix() for path in render_reports(run)]
    assert names == ["a/report.html", "a/report.pdf", "index.html"]
    assert "set-aside" not in (run / "index.json").read_text()


def test_one_broken_slide_does_not_stop_the_others(make_result, tmp_path):
    run = tmp_path / "run"
    for name in ("a", "b", "c", "d"):
        make_result(name, folder=run / name)
    (run / "b" / "heatmap.png").write_bytes(b"x")
    (run / "c" / "result.json").write_text("{}")
    with pytest.raises(StoreError, match=r"2 of 4 slides could not be rendered.*heatmap\.png.*result\.json"):
        render_reports(run)
    assert (run / "a" / "report.pdf").is_file()
    assert (run / "d" / "report.pdf").is_file()
    page = (run / "index.html").read_text()
    assert "2 of 4 failed" in page
    assert "not a whole JPEG or PNG image" in page
    assert str(run) not in page


def test_neither_slide_nor_run(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        render_reports(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"neither result\.json nor folders with one"):
        render_reports(tmp_path)


def test_another_schema_version(make_result):
    folder = make_result()
    content = json.loads((folder / "result.json").read_text()) | {"schema_version": 2}
    (folder / "result.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"schema version 2 is not the one this program reads \(1\)"):
        build_report(folder)


def test_unknown_and_missing_fields_are_named(make_result):
    folder = make_result()
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(content | {"colour": 1}))
    with pytest.raises(StoreError, match="colour"):
        build_report(folder)
    (folder / "result.json").write_text("{")
    with pytest.raises(StoreError, match=r"result\.json"):
        build_report(folder)


@pytest.mark.parametrize(
    "name", ["result.json", "run.json", "thumbnail.jpg", "heatmap.png", "region-02.jpg", "regions.geojson"]
)
def test_missing_files_are_named(make_result, name):
    folder = make_result()
    (folder / name).unlink()
    with pytest.raises(StoreError, match=name):
        build_report(folder)


def test_broken_pictures(make_result):
    folder = make_result()
    heatmap = (folder / "heatmap.png").read_bytes()
    for broken in (heatmap[: len(heatmap) // 2], b"", b"<svg onload='alert(1)'/>", b"GIF89a" + bytes(20)):
        (folder / "heatmap.png").write_bytes(broken)
        with pytest.raises(StoreError, match="not a whole JPEG or PNG image"):
            build_report(folder)


def test_heatmap_of_another_extent(make_result):
    folder = make_result()
    shutil.copyfile(folder / "region-01.jpg", folder / "heatmap.png")
    with pytest.raises(StoreError, match="both must show the same extent"):
        build_report(folder)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "a/../../secret.jpg", "..\\secret.jpg"])
def test_names_that_lead_out(make_result, name):
    folder = make_result(images={"thumbnail": name})
    shutil.copyfile(folder / "thumbnail.jpg", folder.parent / "secret.jpg")
    with pytest.raises(StoreError, match="leads out"):
        build_report(folder)


def test_links_that_lead_out(make_result):
    folder = make_result()
    shutil.move(folder / "thumbnail.jpg", folder.parent / "secret.jpg")
    (folder / "thumbnail.jpg").symlink_to(folder.parent / "secret.jpg")
    with pytest.raises(StoreError, match="leads out"):
        build_report(folder)


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]x",
        '{"type": "FeatureCollection"}',
        '{"features": [{"geometry": {"type": "Polygon", "coordinates": [[[NaN, 1], [2, 3]]]}}]}',
        '{"features": [{"geometry": {"type": "Polygon", "coordinates": [["x", "y"]]}}]}',
        '{"features": 7}',
    ],
)
def test_broken_outlines(make_result, content):
    folder = make_result()
    (folder / "regions.geojson").write_text(content)
    with pytest.raises(StoreError, match="not GeoJSON of polygons"):
        build_report(folder)


def test_a_heatmap_of_other_colours_is_refused_rather_than_explained_wrongly(make_result):
    folder = make_result()
    with Image.open(folder / "heatmap.png") as image:
        pixels = np.array(image)
    pixels[pixels[..., 3] > 0, :3] ^= 64
    Image.fromarray(pixels).save(folder / "heatmap.png")
    with pytest.raises(StoreError, match="colours are not those of its colour scale"):
        build_report(folder)


def test_a_result_brings_its_own_colour_scale(make_result):
    folder = make_result()
    with Image.open(folder / "heatmap.png") as image:
        pixels = np.array(image)
    pixels[pixels[..., 3] > 0, :3] ^= 64
    Image.fromarray(pixels).save(folder / "heatmap.png")
    table = colour_table().copy()
    table[:, :3] ^= 64
    Image.fromarray(table[None]).save(folder / "colours.png")
    content = json.loads((folder / "result.json").read_text())
    content["images"]["colours"] = "colours.png"
    (folder / "result.json").write_text(json.dumps(content))
    assert build_report(folder).colours[-1].colour == "#" + bytes(table[255, :3]).hex()
    Image.fromarray(table[None, :9]).save(folder / "colours.png")
    with pytest.raises(StoreError, match="256 × 1 pixels, not 9 × 1"):
        build_report(folder)
