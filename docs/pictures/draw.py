"""Draw the pictures of the documentation: docs/pictures/*.txt become docs/images/*.svg.

    python docs/pictures/draw.py

A line of a picture's text is one thing to draw; a line that begins with ``#`` is a comment.

    title: What a reader without eyes hears first
    desc: what the picture shows, in full sentences
    size 520 300
    frame 10 60 200 80 : words in the lower left corner
    box NAME 20 80 80 40 KIND : words|a second line
    text 20 20 KIND : words
    dot 40 90
    arrow NAME.b 60,70 OTHER.t50 KIND
    line 20,30 40,30 KIND

An arrow or a line ends at a point ``x,y``, or at a side of a box: ``t``, ``b``, ``l`` or ``r`` and how many hundredths
along it, 50 if none is given. KIND is a class of `STYLE`, and may be left out.

The pictures have colours for light and for dark. A browser takes the scheme of the page for a picture in it, so they
follow the switch of the site; and each has a ground of its own, so that they can be read wherever else they stand.
"""

import sys
from collections.abc import Callable
from html import escape
from math import atan2, cos, pi, sin
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "images"
LINE = 17
WIDTH_OF_A_LETTER = 7.6
"""Of the widest usual font, at 14 px: words that would not fit are refused."""
LIGHT = {
    "ground": "#ffffff", "edge": "#d5d9e0", "ink": "#1f2430", "faint": "#5b6472", "line": "#5b6472",
    "box": "#eef1f8", "main": "#dfe5ff", "good": "#dcf3e2", "doubt": "#fdf0cf", "bad": "#fbdfdc", "mark": "#3f51b5",
}  # fmt: skip
DARK = {
    "ground": "#1e2129", "edge": "#3a404d", "ink": "#e6e8ee", "faint": "#a7afbd", "line": "#a7afbd",
    "box": "#2b303c", "main": "#2f3a70", "good": "#234a33", "doubt": "#574617", "bad": "#5c2b2b", "mark": "#93a4ff",
}  # fmt: skip
STYLE = """
text{font:14px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif;fill:var(--ink)}
text.small{font-size:12.5px;fill:var(--faint)}
text.head{font-weight:bold}
.ground{fill:var(--ground);stroke:var(--edge)}
.frame{fill:none;stroke:var(--line);stroke-dasharray:4 4}
.box{fill:var(--box);stroke:var(--line)}
.main{fill:var(--main)}
.good{fill:var(--good)}
.doubt{fill:var(--doubt)}
.bad{fill:var(--bad)}
.dot,.tip{fill:var(--mark)}
.arrow{fill:none;stroke:var(--mark);stroke-width:1.6;stroke-linejoin:round}
.quiet{stroke-dasharray:5 4}
.rule{stroke:var(--edge)}
"""

Point = tuple[float, float]


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    def at(self, side: str) -> Point:
        """The point on a side: ``b``, or ``b25`` for a quarter of the way along."""
        along = float(side[1:] or 50) / 100
        if side[0] in "tb":
            return self.x + along * self.width, self.y + (side[0] == "b") * self.height
        return self.x + (side[0] == "r") * self.width, self.y + along * self.height


class Picture:
    """What the lines read so far have drawn."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told = {"title": "", "desc": ""}
        self.width = self.height = 0
        self.boxes: dict[str, Box] = {}
        self.drawn: list[str] = []

    def read(self, line: str) -> None:
        """Draw one line."""
        head, _, words = (part.strip() for part in line.partition(":"))
        verb, *given = head.split()
        if verb in self.told:
            self.told[verb] = f"{self.told[verb]} {words}".strip()
            return
        draw: Callable[[list[str], str], None] = getattr(self, f"_{verb}")
        draw(given, words)

    def _size(self, given: list[str], words: str) -> None:
        self.width, self.height = map(int, given)

    def _frame(self, given: list[str], words: str) -> None:
        x, y, width, height = map(float, given)
        self.drawn.append(_rect("frame", x, y, width, height))
        self._write(x + 10, y + height - 9, words, "small")

    def _box(self, given: list[str], words: str) -> None:
        name, *numbers = given[:5]
        box = self.boxes[name] = Box(*map(float, numbers))
        self.drawn.append(_rect(" ".join(["box", *given[5:]]), *box))
        lines = words.split("|") if words else []
        y = box.y + box.height / 2 - LINE * (len(lines) - 1) / 2 + 5
        for number, text in enumerate(lines):
            if len(text) * WIDTH_OF_A_LETTER * (0.88 if number else 1) > box.width - 8:
                raise ValueError(f"{self.name}: {text!r} is too long for the box {name}")
            kind = "small" if number else "head" if len(lines) > 1 else ""
            self._write(box.x + box.width / 2, y + number * LINE, text, kind, "middle")

    def _text(self, given: list[str], words: str) -> None:
        x, y, *kind = given
        for number, text in enumerate(words.split("|")):
            self._write(float(x), float(y) + number * LINE, text, " ".join(kind))

    def _dot(self, given: list[str], words: str) -> None:
        self.drawn.append(f'<circle class="dot" cx="{given[0]}" cy="{given[1]}" r="5"/>')

    def _line(self, given: list[str], words: str) -> None:
        points, kind = self._way(given)
        self.drawn.append(f'<path class="{kind}" d="M{" L".join(map(_pair, points))}"/>')

    def _arrow(self, given: list[str], words: str) -> None:
        points, kind = self._way(given)
        (x1, y1), (x2, y2) = points[-2:]
        angle = atan2(y2 - y1, x2 - x1)
        stop = (x2 - 6 * cos(angle), y2 - 6 * sin(angle))
        path = " L".join(_pair(point) for point in [*points[:-1], stop])
        self.drawn.append(f'<path class="{kind}" d="M{path}"/>')
        wings = [(x2 - 10 * cos(angle + turn), y2 - 10 * sin(angle + turn)) for turn in (-pi / 7, pi / 7)]
        self.drawn.append(f'<path class="tip" d="M{_pair((x2, y2))} L{_pair(wings[0])} L{_pair(wings[1])} Z"/>')

    def _way(self, given: list[str]) -> tuple[list[Point], str]:
        ends = [word for word in given if "," in word or "." in word]
        return [self._point(end) for end in ends], " ".join(["arrow", *(word for word in given if word not in ends)])

    def _point(self, end: str) -> Point:
        if "," in end:
            x, y = map(float, end.split(","))
            return x, y
        name, side = end.split(".")
        return self.boxes[name].at(side)

    def _write(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        kind = f' class="{kind}"' if kind else ""
        anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.drawn.append(f'<text x="{x:g}" y="{y:g}"{kind}{anchor}>{escape(words)}</text>')

    def svg(self) -> str:
        """The picture, whole."""
        title, desc = self.told["title"], self.told["desc"]
        if not (title and desc and self.width):
            raise ValueError(f"{self.name}: a picture has a title, a desc and a size")
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
            f' height="{self.height}" role="img" aria-labelledby="title desc">'
        )
        ground = _rect("ground", 0.5, 0.5, self.width - 1, self.height - 1)
        told = f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(desc)}</desc>'
        colours = f"svg{{{_variables(LIGHT)}}}\n@media (prefers-color-scheme:dark){{svg{{{_variables(DARK)}}}}}"
        return "\n".join([head, told, f"<style>\n{colours}{STYLE}</style>", ground, *self.drawn, "</svg>\n"])


def _variables(colours: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in colours.items())


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'


def _pair(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def draw(source: Path) -> str:
    """Return the SVG of a picture's text."""
    picture = Picture(source.name)
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                picture.read(line)
            except (AttributeError, KeyError, ValueError, TypeError) as error:
                raise SystemExit(f"{source.name}, line {number}: {line}: {error!r}") from error
    return picture.svg()


def pictures() -> dict[Path, Path]:
    """The text of each picture, and where its SVG stands."""
    return {source: IMAGES / f"{source.stem}.svg" for source in sorted(HERE.glob("*.txt"))}


if __name__ == "__main__":
    for source, target in pictures().items():
        target.write_text(draw(source), encoding="utf-8")
        sys.stdout.write(f"{target.relative_to(HERE.parents[1])}\n")
