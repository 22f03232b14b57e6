"""The documents of the project and the code blocks in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+)\.py\n")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the document it begins on (from 0)."""

    language: str
    text: str
    line: int

    @property
    def output(self) -> str:
        """What the comments below the last line of code say that it prints."""
        lines = self.text.splitlines()
        comments: list[str] = []
        while lines and lines[-1].startswith("# "):
            comments.insert(0, lines.pop()[2:] + "\n")
        return "".join(comments)

    @property
    def module(self) -> str | None:
        """The module that the block is a file of, if its first line is ``# name.py``."""
        found = _FILE.match(self.text)
        return found and found[1]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    text = text_of(document)
    found = (Block(m[1], m[2], text.count("\n", 0, m.start(2))) for m in _BLOCK.finditer(text))
    return [block for block in found if block.language == language]
