"""The documentation is built without a warning, and fetches nothing when it is read."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, text_of

COLUMNS = 90
PAGES = [document for document in DOCUMENTS if document.startswith("docs/")]

# Pages of others that a reader may follow, against what a browser would load by itself.
_LOADED = re.compile(r'<(?:script|img|iframe|source)[^>]*\ssrc="(https?:)?//|<link[^>]*\shref="(https?:)?//')


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > 20
    assert [found[0] for page in pages for found in _LOADED.finditer(page)] == []
    for document in PAGES:
        heading = text_of(document).splitlines()[0].removeprefix("# ").replace("\\#", "#")
        page = (tmp_path / "site" / document.removeprefix("docs/")).with_suffix(".html").read_text(encoding="utf-8")
        shown = re.search(r"<title>(.*?)( - catga)?</title>", page)
        assert shown is not None
        assert html.unescape(shown[1]) == heading, document


@pytest.mark.parametrize("document", PAGES)
def test_code_is_not_wider_than_the_column(document: str) -> None:
    code = re.findall(r"^```(?!acl)\w+\n(.*?)^```$", text_of(document), re.MULTILINE | re.DOTALL)
    assert [line for block in code for line in block.splitlines() if len(line) > COLUMNS] == []


def test_every_public_name_of_the_package_is_in_the_reference() -> None:
    import catga

    reference = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    covered = {"catga.errors", "catga.routing", "catga.node"}
    missing = []
    for name in set(catga.__all__) - {"__version__"}:
        home = getattr(getattr(catga, name), "__module__", "catga.result")
        if not any(home.startswith(module) for module in covered) and not re.search(rf"\b{name}\b", reference):
            missing.append(name)
    assert missing == []
