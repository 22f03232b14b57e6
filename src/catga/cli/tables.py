"""Tables for the width there is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from catga.cli.text import one_line

Cell = str | Text


@dataclass(frozen=True)
class Fitted:
    """A table in which numbers and words keep their width, and long names give way.

    Attributes:
        columns: their titles.
        rows: a cell for each column.
        right: columns of numbers.
        folding: columns that may take several lines → characters that they need at least.
        cut: one of these that is cut instead, and takes the room that the others leave.
        spare: columns that are left out, the first one first, where that is not enough.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: Sequence[str] = ()
    folding: Mapping[str, int] = field(default_factory=dict[str, int])
    cut: str = ""
    spare: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table(options.max_width)

    def table(self, room: int) -> Table:
        """The table in so many characters."""
        natural = self._natural()
        if sum(natural.values()) + 2 * (len(natural) - 1) <= room:
            return self._table(natural, gap=2)
        widths = {name: min(width, self.folding.get(name, width)) for name, width in natural.items()}
        for name in self.spare:
            if sum(widths.values()) + len(widths) - 1 <= room:
                break
            del widths[name]
        self._grow(widths, natural, room - sum(widths.values()) - len(widths) + 1)
        return self._table(widths, gap=1)

    def _natural(self) -> dict[str, int]:
        columns = zip(self.columns, *self.rows, strict=True)
        return {str(cells[0]): max(_text(cell).cell_len for cell in cells) for cells in columns}

    def _grow(self, widths: dict[str, int], natural: Mapping[str, int], room: int) -> None:
        """Give each character of `room` to the column that has the most lines."""
        folding = [name for name in widths if name in self.folding and name != self.cut]
        while room > 0 and folding:
            longest = max(folding, key=lambda name: natural[name] / widths[name])
            if widths[longest] == natural[longest]:
                break
            widths[longest] += 1
            room -= 1
        if self.cut in widths:
            widths[self.cut] = min(natural[self.cut], widths[self.cut] + max(room, 0))

    def _table(self, widths: Mapping[str, int], gap: int) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
        for name, width in widths.items():
            folds = name in self.folding and name != self.cut
            table.add_column(
                name,
                width=width,
                justify="right" if name in self.right else "left",
                no_wrap=not folds,
                overflow="fold" if folds else "ellipsis",
            )
        for row in self.rows:
            table.add_row(*(_text(cell) for name, cell in zip(self.columns, row, strict=True) if name in widths))
        return table


def _text(cell: Cell) -> Text:
    return Text(one_line(cell)) if isinstance(cell, str) else cell  # never markup: a node's id may have brackets
