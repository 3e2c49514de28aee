"""The PDF: literal text, one file for one report on any machine, a page for every verdict."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from medvision.report.build import build_report
from medvision.report.pdf import breakable, render_pdf

HOSTILE = '#panic("x") #pagebreak() $x^2$ *b* \\ </script> #eval("1+1")'

needs_pdftotext = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="needs pdftotext (poppler) to read the text back"
)


def pages(pdf: bytes) -> int:
    """The largest count of the page trees."""
    counts = [int(count) for count in re.findall(rb"/Count (\d+)", pdf)]
    return max(counts, default=0)


def test_is_a_pdf_of_few_pages(make_result):
    pdf = render_pdf(build_report(make_result()))
    assert pdf.startswith(b"%PDF-1.")
    assert 1 <= pages(pdf) <= 3
    assert len(pdf) < 2_000_000


def test_markup_in_strings_is_neither_run_nor_set(make_result):
    def render(name: str) -> bytes:
        return render_pdf(build_report(make_result(name, slide={"metadata": {name: name}}, limits=(name,))))

    assert pages(render(HOSTILE)) == pages(render("x" * 25 + " " + "y" * 25))


@needs_pdftotext
def test_strings_appear_literally(make_result, tmp_path):
    name = "slide “a” #7 – \u202eabc"
    file = tmp_path / "report.pdf"
    file.write_bytes(render_pdf(build_report(make_result(name, limits=(HOSTILE,), reason=HOSTILE))))
    text = subprocess.run(["pdftotext", "-raw", file, "-"], capture_output=True, text=True, check=True).stdout
    assert " ".join(HOSTILE.split()) in " ".join(text.split())
    assert "⟨U+202E⟩abc" in text
    assert text.count("RESEARCH USE ONLY – not for diagnosis") == 2 * text.count("\f")


@pytest.mark.parametrize("verdict", ["done", "no tissue", "QC rejected", "failed"])
def test_every_verdict(make_result, verdict):
    empty = (
        {} if verdict == "done" else {"heatmap": None, "regions": (), "images": {}, "tissue": None, "qc": ()}
    )
    assert pages(render_pdf(build_report(make_result(verdict=verdict, limits=(), **empty)))) >= 1


def test_wide_and_tall_slides(make_result):
    from PIL import Image

    for rows, columns in ((100, 600), (600, 100)):
        folder = make_result()
        for name, mode in (("thumbnail.jpg", "RGB"), ("heatmap.png", "RGBA")):
            Image.new(mode, (columns, rows)).save(folder / name)
        assert 1 <= pages(render_pdf(build_report(folder))) <= 4


def test_equal_bytes_in_another_process(make_result, tmp_path):
    folder = make_result()
    here = hashlib.sha256(render_pdf(build_report(folder))).hexdigest()
    program = (
        "import hashlib, sys, pathlib\n"
        "from medvision.report.build import build_report\n"
        "from medvision.report.pdf import render_pdf\n"
        "print(hashlib.sha256(render_pdf(build_report(pathlib.Path(sys.argv[1])))).hexdigest())\n"
    )
    environment = os.environ | {
        "PYTHONHASHSEED": "12345",
        "TZ": "Asia/Tokyo",
        "TMPDIR": str(tmp_path),
        "LANG": "C",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == here


def test_long_words_can_break():
    assert breakable("short words stay") == "short words stay"
    digest = "ab" * 32
    assert breakable(digest).replace("\u200b", "") == digest
    assert max(len(part) for part in breakable(digest).split("\u200b")) == 8


@needs_pdftotext
def test_the_first_page_is_filled_with_regions(make_result, tmp_path):
    """Below an overview of 10:9, where a row of pictures with their figures just fits."""
    from PIL import Image

    folder = make_result()
    for name, mode in (("thumbnail.jpg", "RGB"), ("heatmap.png", "RGBA")):
        Image.new(mode, (600, 540)).save(folder / name)
    file = tmp_path / "report.pdf"
    file.write_bytes(render_pdf(build_report(folder)))
    command = ["pdftotext", "-raw", "-l", "1", file, "-"]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Region 1 highest" in " ".join(first.split())
    assert "Level-0 pixel" in first
