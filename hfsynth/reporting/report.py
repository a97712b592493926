"""A report: what a dataset's rows are like, as values. `hfsynth.report` makes one."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hfsynth.reporting.answers import Answers
from hfsynth.reporting.contents import contents
from hfsynth.reporting.embedded import Embedded
from hfsynth.reporting.forms import Told
from hfsynth.reporting.neighbours import Neighbours
from hfsynth.reporting.plain import from_plain
from hfsynth.reporting.reading import Columns
from hfsynth.reporting.sections import Section
from hfsynth.reporting.steps import Stage, StepFigures
from hfsynth.reporting.verdicts import Labels, Scores
from hfsynth.reporting.wording import Distinct, Wording

if TYPE_CHECKING:
    from hfsynth.reporting.comparison import Comparison


@dataclass(frozen=True)
class Report(Told):
    """What a dataset's rows are like.

    `str(report)`, `report.markdown()`, `report.html()` and `report.to_json()` are its forms; a notebook shows it by
    itself, with its pictures.
    """

    rows: int
    columns: Columns
    instructions: Wording
    duplicates: int
    """Instructions that are equal to an earlier one, but for width, case and white space."""
    distinct: tuple[Distinct, ...]
    """Of one word, of two in a row and of three, in the instructions."""
    neighbours: Neighbours
    embedded: Embedded | None
    """None where it wasn't asked for, or there are no instructions."""
    responses: Wording | None
    """None where there is no column with responses."""
    answers: Answers | None
    """None where there is no column with responses."""
    steps: tuple[StepFigures, ...]
    funnel: tuple[Stage, ...]
    labels: tuple[Labels, ...]
    scores: tuple[Scores, ...]

    def sections(self) -> tuple[Section, ...]:
        """Return what is shown, in its order."""
        return contents(self)

    def compare(self, other: "Report", names: tuple[str, str] = ("first", "second")) -> "Comparison":
        """Set this report and another side by side: every number of both, and which of them is more diverse.

        Args:
            other: The other report.
            names: What this one and the other are called.

        Raises:
            TypeError: If the other isn't a report.
            ValueError: If the names are equal.
        """
        from hfsynth.reporting.comparison import Comparison  # which holds reports

        return Comparison(self, other, names)

    def to_json(self) -> str:
        """Return the report as JSON, for `from_json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it isn't a report, or another version wrote it.
        """
        try:
            report: Report = from_plain(cls, json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"this is no report that this version can read: {error}; {text[:60]!r}.") from error
        return report
