"""Every page, seen in a real browser, is whole."""

import subprocess
import sys
from pathlib import Path

import pytest
from look import NO_BROWSER

LOOK = Path(__file__).with_name("look.py")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_cut_on_any_page_wide_or_narrow_light_or_dark() -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run([sys.executable, str(LOOK)], capture_output=True, text=True, timeout=800, check=False)
    if done.returncode == NO_BROWSER:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_what_is_cut_is_found(tmp_path: Path) -> None:
    page = """<!doctype html><body data-md-color-scheme="default"><div class="md-content">
    <pre style="width: 300px; overflow: auto"><code>{0}</code></pre><table><tr><td>{0}</td></tr></table>
    <img src="none.svg" alt="x"></div>""".format("x" * 400)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    command = [sys.executable, str(LOOK), "--site", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode == NO_BROWSER:
        pytest.skip(done.stderr)
    assert done.returncode == 1, done.stderr
    for fault in ("wider than the window", "cut: pre", "beyond the window: table", "no picture"):
        assert fault in done.stdout
