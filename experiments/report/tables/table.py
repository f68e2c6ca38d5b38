"""What a table of a paper is: columns, rows of figures with their intervals, and notes on everything that is open.

Knows how a figure reads, which one is the best, and what a reader has to be told below; refuses to know results and
file formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

DASH = "\N{EN DASH}"
DAGGER = "†"
MINUS = "\N{MINUS SIGN}"
LEVEL = 0.05
ARROWS = {"higher": "↑", "lower": "↓"}
UNKNOWN = "not recorded by the version that measured it"

Value = float | int | str | None


@dataclass(frozen=True)
class Cell:
    """A figure, or words.

    Attributes:
        reason: why there is no value; with a value, why there is no interval.
        low, high: of the 95 % interval; both are the value where it is exact by definition.
        null: the value that says "no difference".
        p_holm, lost: the corrected p-value, and whether the correction takes back what the interval shows.
        detectable: the smallest effect that the sample could have shown.
        no_loss: whether "no loss" is shown, beyond a margin.
        paper, version: the paper's figure, and in which version of it that stands.
        differs: in what its setting is another one than ours, in words.
        best: it is told apart from all that it competes with.
    """

    value: Value
    reason: str | None = None
    low: float | None = None
    high: float | None = None
    null: float | None = None
    p_holm: float | None = None
    lost: bool = False
    detectable: float | None = None
    no_loss: bool = False
    paper: float | None = None
    version: str | None = None
    differs: str = ""
    best: bool = False

    @property
    def exact(self) -> bool:
        """Whether it is a definition, like the reference's ratio to itself."""
        return self.value is not None and self.low == self.high == self.value

    @property
    def undecided(self) -> bool:
        """Whether the interval contains "no difference"."""
        if self.low is None or self.high is None or self.null is None or self.exact:
            return False
        return self.low <= self.null <= self.high


@dataclass(frozen=True)
class Column:
    """What stands in one column.

    Attributes:
        key: its name in CSV.
        head: what is printed above it, in lines; empty if it is for CSV only.
        digits: how numbers are printed, as in a format string; empty for words.
        better: of comparisons, which have intervals: the direction of the better value.
    """

    key: str
    head: str = ""
    digits: str = ""
    better: str | None = None

    @property
    def title(self) -> str:
        """The head in one line."""
        return self.head.replace("-\n", "").replace("/\n", "/").replace("\n", " ")


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        cells: one for each column.
        section: the heading that it stands under.
        rivals: it competes with the rows that have the same; empty if with none.
    """

    cells: tuple[Cell, ...]
    section: str = ""
    rivals: str = ""


@dataclass(frozen=True)
class Table:
    """A table as it is written to files; `name` is that of the files."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def printed(self) -> list[int]:
        """The places of the columns that are not for CSV only."""
        return [place for place, column in enumerate(self.columns) if column.head]

    def has_paper(self, place: int) -> bool:
        """Whether the paper has a figure for a column."""
        return any(row.cells[place].paper is not None for row in self.rows)

    def sections(self) -> list[tuple[str, list[Row]]]:
        """The rows of each section, in the order of their first rows."""
        names = dict.fromkeys(row.section for row in self.rows)
        return [(name, [row for row in self.rows if row.section == name]) for name in names]


def finished(name: str, title: str, columns: Sequence[Column], rows: Sequence[Row], notes: Iterable[str] = ()) -> Table:
    """The table with notes on all that its cells leave open."""
    said = dict.fromkeys([*notes, *_notes(columns, rows)])
    return Table(name, title, tuple(columns), tuple(rows), tuple(said))


def with_best(columns: Sequence[Column], rows: Sequence[Row]) -> list[Row]:
    """The rows, in every printed comparison the best of its rivals marked, if its interval tells it apart from all."""
    marked = list(rows)
    for place, column in enumerate(columns):
        if column.better and column.head:
            marked = _with_best(marked, place, column.better)
    return marked


def shown(cell: Cell, column: Column) -> tuple[str, str]:
    """Value and interval in print; the interval is empty where none is to be expected."""
    if cell.value is None:
        return DASH, ""
    if isinstance(cell.value, str):
        return cell.value, ""
    digits = f"+{column.digits}" if cell.null == 0 and not cell.exact else column.digits
    value = _signed(cell.value, digits or "g")
    if cell.exact or not (column.better or cell.low is not None or cell.reason):
        return value, ""
    if cell.low is None or cell.high is None:
        return value, f"[{DASH}]"
    marks = ("*" if cell.undecided else "") + ("°" if cell.lost else "") + ("=" if cell.no_loss else "")
    return value, f"[{_signed(cell.low, digits)}, {_signed(cell.high, digits)}]{marks}"


def shown_paper(cell: Cell, column: Column) -> str:
    """The paper's figure, and its version."""
    return "" if cell.paper is None else f"{_signed(cell.paper, column.digits or 'g')} ({cell.version})"


def _signed(value: float, digits: str) -> str:
    return f"{value:{digits}}".replace("-", MINUS)


def _with_best(rows: Sequence[Row], place: int, better: str) -> list[Row]:
    """The rows, the best values of one column marked."""
    marked = list(rows)
    for rivals in dict.fromkeys(row.rivals for row in rows if row.rivals):
        competing = [n for n, row in enumerate(rows) if row.rivals == rivals]
        known = [n for n in competing if isinstance(rows[n].cells[place].value, int | float)]
        best = _best([rows[n].cells[place] for n in known], 1 if better == "higher" else -1)
        if best is not None:
            row = rows[known[best]]
            cells = [replace(cell, best=True) if n == place else cell for n, cell in enumerate(row.cells)]
            marked[known[best]] = replace(row, cells=tuple(cells))
    return marked


def _best(cells: Sequence[Cell], sign: int) -> int | None:
    """Which cell's whole interval is better than those of all others; None if there is no such cell."""
    if len(cells) < 2 or any(cell.low is None or cell.high is None for cell in cells):
        return None
    ends = [sorted((sign * float(cell.low or 0), sign * float(cell.high or 0))) for cell in cells]
    first = max(range(len(cells)), key=lambda n: ends[n][0])
    return first if all(ends[first][0] > high for n, (_, high) in enumerate(ends) if n != first) else None


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """What marks, dashes and bold mean, as far as they occur in print."""
    printed = [(column, [row.cells[place] for row in rows]) for place, column in enumerate(columns) if column.head]
    compared = [cell for column, cells in printed if column.better for cell in cells]
    if any(cell.best for cell in compared):
        bold = "best of its run in this table, its 95 % interval apart from all others'"
        yield f"bold: {bold} (those of the frontier do not compete)"
    if any(cell.low is not None and not cell.exact for _, cells in printed for cell in cells):
        yield "[ ]: 95 % interval, not corrected for the number of comparisons"
    if owners := [column.title for column, cells in printed if not column.better and any(c.low for c in cells)]:
        yield f"{', '.join(owners)}: two variants whose intervals overlap may differ all the same, on the same prompts"
    for column, cells in printed:
        for differs in dict.fromkeys(cell.differs for cell in cells if cell.differs):
            yield f"{column.title} beside the paper's: ours has {differs}"
    if any(cell.undecided for cell in compared):
        yield "*: the interval contains 1, or 0 for a difference: not shown to differ"
    if any(cell.lost for cell in compared):
        yield f"°: does not hold at {LEVEL} after Holm's correction"
    if any(cell.no_loss for cell in compared):
        yield "=: no loss beyond the margin"
    for column, cells in printed:
        least = [cell.detectable for cell in cells if cell.detectable is not None]
        if least and any(cell.undecided for cell in cells):
            near, far = (f"{end:{column.digits}}" for end in (min(least), max(least)))
            span = near if near == far else f"{near} to {far}, depending on the row"
            yield f"{column.title}: smallest detectable effect {span} (80 % power, before any correction)"
    yield from _reasons(DASH, [(c, cell) for c, cells in printed for cell in cells if cell.value is None])
    yield from _reasons(f"[{DASH}]", [(c, cell) for c, cells in printed for cell in cells if _lacks_interval(cell, c)])


def _reasons(mark: str, absent: Sequence[tuple[Column, Cell]]) -> Iterator[str]:
    """Why there is no figure: each reason once, with the columns that it is told of."""
    columns: dict[str, dict[str, None]] = {}
    for column, cell in absent:
        columns.setdefault(cell.reason or UNKNOWN, {})[column.title] = None
    yield from (f"{mark} in {', '.join(titles)}: {reason}" for reason, titles in columns.items())


def _lacks_interval(cell: Cell, column: Column) -> bool:
    expected = column.better is not None or cell.reason is not None
    return expected and cell.value is not None and cell.low is None
