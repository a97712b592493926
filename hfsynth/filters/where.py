"""Where: rows stay by a value that a step before has given them, as Magpie (arXiv 2406.08464) selects its datasets.

Magpie keeps instructions of good or excellent quality, and responses with a reward of at least -10.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from hfsynth.errors import ColumnError
from hfsynth.filter import Drop, Filter


@dataclass(frozen=True)
class Where(Filter):
    """Keep the rows whose value lies within limits, or is among some.

    Drops by the rules `below`, `above`, `not_among`, `not_a_number` and `missing` (it is None), with the value, and
    the limit or the values.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"quality": ["good", "poor"], "reward": [-3.5, -12.0]})
    >>> Where("quality", among=("good", "excellent"))(dataset)["reward"][:]
    [-3.5]
    >>> Where("reward", at_least=-10).split(dataset)[1][0]["rule"]
    'below'

    Raises:
        ValueError: If there are neither limits nor values, or both; or no number could lie within the limits.
    """

    decides_on_none: ClassVar[bool] = True

    column: str = field(metadata={"help": "The column that is looked at."})
    _: KW_ONLY
    at_least: float | None = field(default=None, metadata={"help": "Lowest number that stays."})
    at_most: float | None = field(default=None, metadata={"help": "Highest number that stays."})
    among: tuple[Any, ...] = field(default=(), metadata={"help": "Values that stay."})

    def __post_init__(self) -> None:
        """Check the condition."""
        super().__post_init__()
        if any(not isinstance(value, str | int | float | bool) for value in self.among):
            raise ValueError(f"Where.among is {self.among!r}; it must be texts or numbers.")
        limits = [limit for limit in (self.at_least, self.at_most) if limit is not None]
        told = f"at_least={self.at_least}, at_most={self.at_most}, among={self.among}"
        if bool(limits) == bool(self.among):
            raise ValueError(f"Where needs limits or values, one of the two: {told}.")
        if limits != sorted(limits):
            raise ValueError(f"Where has limits that no number lies within: {told}.")

    def decide(self, values: Iterable[Any], kept: Iterable[Any]) -> Iterator[Drop | None]:  # noqa: ARG002
        """Compare each value with the limits, or look it up among the values that stay."""
        return map(self._drop, values)

    def _drop(self, value: Any) -> Drop | None:
        if value is None:
            return Drop("missing", "None")
        if isinstance(value, float) and math.isnan(value):
            return Drop("not_a_number", str(value))
        if self.among:
            return None if value in self.among else Drop("not_among", str(value), ", ".join(map(str, self.among)))
        if not isinstance(value, (int, float)):
            raise ColumnError(
                f"{self.name} compares numbers; column {self.column!r} has {value!r}, of type "
                f"{type(value).__name__}. For values that aren't numbers, say among=(…)."
            )
        if self.at_least is not None and value < self.at_least:
            return Drop("below", str(value), str(self.at_least))
        if self.at_most is not None and value > self.at_most:
            return Drop("above", str(value), str(self.at_most))
        return None
