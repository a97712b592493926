"""A comparison of two reports: every number of both, their difference, and which one is more diverse."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

from hfsynth.reporting.forms import Told
from hfsynth.reporting.neighbours import NEAR
from hfsynth.reporting.pictures import draw_similarity
from hfsynth.reporting.plain import from_plain
from hfsynth.reporting.report import Report
from hfsynth.reporting.sections import Cell, Line, Picture, Section, Table, difference

_VERDICT = "more diverse"
_EQUAL = "neither"
_UNEVEN = "*"
_ONLY = ""  # for the name of a column that is alone
_CAUTION = (
    "* was measured on more rows or n-grams in one than in the other. The more there are, the more alike they are: of "
    "such measures the smaller dataset's looks more diverse than it is. The measures on as many are fair."
)
_Key = tuple[str, str, str]


@dataclass(frozen=True)
class Comparison(Told):
    """Two reports, side by side.

    Raises:
        TypeError: If one of the two isn't a report.
        ValueError: If both have one name.
    """

    first: Report
    second: Report
    names: tuple[str, str] = ("first", "second")
    """What the two are called."""

    def __post_init__(self) -> None:
        """Check the reports and their names."""
        if len(set(self.names)) != 2:
            raise ValueError(f"names are {self.names!r}; the two reports need two different ones.")
        for given in (self.first, self.second):
            if not isinstance(given, Report):
                raise TypeError(f"a report is compared with another one, not with {type(given).__name__}: {given!r}.")

    def sections(self) -> tuple[Section, ...]:
        """Return what is shown: which is more diverse, then the reports' tables, with the numbers of both."""
        ours = {section.title: section for section in self.first.sections()}
        theirs = {section.title: section for section in self.second.sections()}
        empty = Section("")
        each = tuple(
            self._side_by_side(title, ours.get(title, empty), theirs.get(title, empty))
            for title in dict.fromkeys([*ours, *theirs])
        )
        return (self._summary(each), *each)

    def _pictures(self) -> tuple[Picture, ...]:
        """Draw the nearest neighbours of both in one picture, where both have some."""
        both = zip(self.names, (self.first.neighbours.similarity, self.second.neighbours.similarity), strict=True)
        there = {name: spread for name, spread in both if spread}
        words = "Histograms of both datasets: each instruction's ROUGE-L with its nearest other one"
        return (Picture("similarity", words, partial(draw_similarity, there, NEAR)),) if len(there) > 1 else ()

    def to_json(self) -> str:
        """Return the comparison as JSON, for `from_json`: both reports, whole."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Comparison":
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it isn't a comparison, or another version wrote it.
        """
        try:
            comparison: Comparison = from_plain(cls, json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"this is no comparison that this version can read: {error}; {text[:60]!r}.") from error
        return comparison

    def _side_by_side(self, title: str, ours: Section, theirs: Section) -> Section:
        """Lay each table's cells out as lines with those of both, in the order of the first, then of the second."""
        here, there = _by_key(ours), _by_key(theirs)
        lines: dict[str, list[Line]] = {}
        for key in dict.fromkeys([*here, *there]):
            head, label, column = key
            name = label if column == _ONLY else f"{label}, {column}"
            lines.setdefault(head, []).append(Line(name, self._cells(here.get(key), there.get(key))))
        tables = tuple(self._table(head, found) for head, found in lines.items())
        section = Section(title, (), tables)
        verdicts = (str(line.cells[-1].value) for table in _with_verdicts([section]) for line in table.lines)
        return replace(section, notes=(_CAUTION,)) if any(one.endswith(_UNEVEN) for one in verdicts) else section

    def _table(self, head: str, lines: list[Line]) -> Table:
        """Return a table, without the column on diversity where nothing is said there."""
        columns = (head, *self.names, "difference", _VERDICT)
        if not any(line.cells[-1].value for line in lines):
            return Table(columns[:-1], tuple(Line(line.label, line.cells[:-1]) for line in lines))
        return Table(columns, tuple(lines))

    def _cells(self, ours: Cell | None, theirs: Cell | None) -> tuple[Cell, ...]:
        first, second = ours or Cell(None), theirs or Cell(None)
        return (
            first,
            second,
            Cell(difference(first, second), "text"),
            Cell(self._more_diverse(first, second), "text"),
        )

    def _more_diverse(self, first: Cell, second: Cell) -> str:
        """Name the one that is more diverse by a measure, "" where that can't be said."""
        if not first.more_diverse or not _is_number(first.value) or not _is_number(second.value):
            return ""
        apart = float(second.value or 0) - float(first.value or 0)
        sign = -1 if first.more_diverse == "lower" else 1
        name = _EQUAL if not apart else self.names[sign * apart > 0]
        return name if first.size == second.size else f"{name} {_UNEVEN}"

    def _summary(self, sections: tuple[Section, ...]) -> Section:
        """Count the measures by which each is more diverse."""
        heads = ("more diverse by", "measures on as many", "measures on different amounts")
        found = Counter(str(line.cells[3].value) for table in _with_verdicts(sections) for line in table.lines)
        lines = tuple(
            Line(name, (Cell(found[name]), Cell(found[f"{name} {_UNEVEN}"]))) for name in (*self.names, _EQUAL)
        )
        fair = sum(found[name] for name in (*self.names, _EQUAL))
        notes = (
            "Measures that are alike go together, and a small difference may be chance: read the numbers, too.",
            *(() if fair else ("No measure could be taken on as many rows or n-grams of both.",)),
        )
        return Section("Which is more diverse", notes, (Table(heads, lines),), self._pictures())


def _with_verdicts(sections: Iterable[Section]) -> Iterator[Table]:
    return (table for section in sections for table in section.tables if table.head[-1] == _VERDICT)


def _by_key(section: Section) -> dict[_Key, Cell]:
    """Return a section's cells by what its tables call them: the table's first head, the line's label, the column."""
    return {
        (table.head[0], line.label, column if len(line.cells) > 1 else _ONLY): cell
        for table in section.tables
        for line in table.lines
        for column, cell in zip(table.head[1:], line.cells, strict=True)
    }


def _is_number(value: float | str | None) -> bool:
    return isinstance(value, (int, float))
