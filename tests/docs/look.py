"""Look at every page of the documentation in a real Chromium, wide and narrow, light and dark.

    python tests/docs/look.py [--site FOLDER] [--pictures FOLDER] [PAGE ...]

Builds the site unless ``--site`` names one, and says what a reader could not see: code, tables and pictures that are
cut, and pages that are wider than the window. At 1,400 px nothing may scroll sideways. At 400 px tables and transcripts
of a terminal, which are made of columns, may scroll in their own frame, with a bar to be seen; other code is wrapped.
The status is 0 if all is well, 1 if something is cut, 3 if there is no Chromium.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from chromium import HOW_TO_GET_ONE, Tab, find

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = (1400, 400)
SCHEMES = ("light", "dark")
HEIGHT = 900
NO_BROWSER = 3
WITH_PICTURE = "events.html"

# What of the content cannot be seen whole. `named` is how a reader of the report finds it.
MEASURE = """
(() => {
  const found = [], narrow = innerWidth < 700;
  const text = e => (e.alt || e.textContent).trim();
  const named = e => e.tagName.toLowerCase() + ": " + text(e).replace(/\\s+/g, ' ').slice(0, 60);
  const hidden = e => e.getClientRects().length === 0;
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  const moves = e => {
    if (!scrolls(e) || !e.matches('.language-console code, .md-typeset__scrollwrap')) return false;
    if (e.offsetHeight - e.clientHeight < 5) found.push('no bar to scroll by: ' + named(e));
    e.scrollLeft = 9999;
    const moved = Math.abs(e.scrollLeft + e.clientWidth - e.scrollWidth) < 2;
    e.scrollLeft = 0;
    return moved;
  };
  const frame = e => { for (let p = e.parentElement; p; p = p.parentElement) if (scrolls(p)) return p; };
  if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the window');
  const content = document.querySelector('.md-content');
  for (const e of content.querySelectorAll('pre, pre > code, .highlight, .md-typeset__scrollwrap')) {
    if (!hidden(e) && e.scrollWidth > e.clientWidth + 1 && !(narrow && moves(e))) found.push('cut: ' + named(e));
  }
  for (const e of content.querySelectorAll('*')) {
    if (hidden(e) || e.closest('pre, .md-clipboard, .md-code__nav, .headerlink')) continue;
    const box = e.getBoundingClientRect();
    if (box.right <= innerWidth + 1 && box.left >= -1) continue;
    if (narrow && e.closest('.md-typeset__scrollwrap') && frame(e)) continue;
    found.push('beyond the window: ' + named(e));
  }
  for (const e of content.querySelectorAll('img')) {
    if (!hidden(e) && (!e.complete || !e.naturalWidth)) found.push('no picture: ' + e.src);
    if (!hidden(e) && !e.alt) found.push('a picture without a text: ' + e.src);
  }
  return [...new Set(found)].slice(0, 20);
})()
"""


def build(folder: Path) -> None:
    """Build the site into `folder`."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)


def looks(tab: Tab, site: Path, pages: list[str]) -> Iterator[tuple[str, int, str]]:
    """Load each page as each reader sees it."""
    for page, width, scheme in product(pages, WIDTHS, SCHEMES):
        tab.show((site / page).as_uri(), width, HEIGHT, scheme)
        yield page, width, scheme


def keep(tab: Tab, folder: Path, name: str, width: int) -> None:
    """Write the page as pictures of at most 2,000 pixels in height."""
    height = int(tab.run("document.documentElement.scrollHeight"))
    for part, top in enumerate(range(0, height, 2000)):
        path = folder / f"{name}.{part}.png"
        path.write_bytes(tab.picture(top, width, min(2000, height - top)))


def switches(tab: Tab, page: str) -> Iterator[str]:
    """Choose the other palette by hand: the pictures must follow it, not the system."""
    tab.show(page, WIDTHS[0], HEIGHT, "light")
    tab.run("document.querySelector('[data-md-component=palette] label:not([hidden])').click()")
    tab.run("new Promise(done => setTimeout(done, 500))")
    if tab.run("document.body.dataset.mdColorScheme") != "slate":
        yield "the switch of the palette does nothing"
    schemes = tab.run("[...document.querySelectorAll('.md-content img')].map(e => getComputedStyle(e).colorScheme)")
    if not schemes or set(schemes) != {"dark"}:
        yield f"the pictures do not follow the switch of the palette: {schemes}"


def examine(browser: str, site: Path, pages: list[str], pictures: Path | None) -> list[str]:
    """Return what cannot be seen, a line each."""
    found: list[str] = []
    with Tab(browser) as tab:
        for page, width, scheme in looks(tab, site, pages):
            where = f"{page} at {width} px, {scheme}"
            dark = tab.run("document.body.dataset.mdColorScheme") == "slate"
            if dark != (scheme == "dark"):
                found.append(f"{where}: the other palette is shown")
            found += [f"{where}: {what}" for what in tab.run(MEASURE)]
            if pictures:
                keep(tab, pictures, f"{page.replace('/', '_').removesuffix('.html')}.{width}.{scheme}", width)
        if WITH_PICTURE in pages:
            found += [f"{WITH_PICTURE}: {what}" for what in switches(tab, (site / WITH_PICTURE).as_uri())]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=Path, help="a site that is built already")
    parser.add_argument("--pictures", type=Path, help="keep what was seen in this folder")
    parser.add_argument("pages", nargs="*", help="such as events.html; all, if none is named")
    given = parser.parse_args()
    browser = find()
    if browser is None:
        print(HOW_TO_GET_ONE, file=sys.stderr)
        return NO_BROWSER
    with tempfile.TemporaryDirectory() as folder:
        site = (given.site or Path(folder)).resolve()
        if given.site is None:
            build(site)
        pages = given.pages or sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
        pages = [page for page in pages if page != "404.html"]
        if given.pictures:
            given.pictures.mkdir(parents=True, exist_ok=True)
        found = examine(browser, site, pages, given.pictures)
    print(*found, f"{len(pages)} pages, {len(found)} faults", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
