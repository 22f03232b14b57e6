"""The pictures of the documentation are drawn from their text, and can be read by everybody."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from documents import DOCUMENTS, ROOT, text_of

SOURCES = sorted((ROOT / "docs" / "pictures").glob("*.txt"))
SVG = "{http://www.w3.org/2000/svg}"


def svg_of(source: Path) -> Path:
    return ROOT / "docs" / "images" / f"{source.stem}.svg"


def test_each_picture_is_what_its_text_draws(tmp_path: Path) -> None:
    sources, images = tmp_path / "docs" / "pictures", tmp_path / "docs" / "images"
    for folder in (sources, images):
        folder.mkdir(parents=True)
    for path in (*SOURCES, ROOT / "docs" / "pictures" / "draw.py"):
        (sources / path.name).write_bytes(path.read_bytes())
    subprocess.run([sys.executable, str(sources / "draw.py")], check=True, capture_output=True, timeout=60)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in images.iterdir()}
    assert drawn == {svg_of(source).name: svg_of(source).read_text(encoding="utf-8") for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_picture_has_text_for_all_who_read_it(source: Path) -> None:
    root = ElementTree.parse(svg_of(source)).getroot()  # noqa: S314 - our own file
    assert root.attrib["role"] == "img"
    told = {each.attrib["id"]: each.text or "" for each in root if each.tag in (f"{SVG}title", f"{SVG}desc")}
    assert root.attrib["aria-labelledby"].split() == list(told)
    assert all(len(text) > 15 for text in told.values())
    assert len(root.findall(f"{SVG}text")) > 5
    assert "prefers-color-scheme:dark" in (root.findtext(f"{SVG}style") or "")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_picture_stands_on_a_page_and_is_told_in_words(source: Path) -> None:
    shown = re.compile(r"!\[([^\]]{40,})\]\([./]*images/" + source.stem + r"\.svg\)")
    assert any(shown.search(text_of(document)) for document in DOCUMENTS)
