"""Where: keep rows by a label or a number, such as one that an earlier step has added.

Magpie (arXiv 2406.08464), for example, keeps instructions of good or excellent quality, and responses with a reward of
at least -10.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from datasets import ClassLabel, Features, Value

from hfsynth.errors import ColumnError
from hfsynth.filter import Drop, Filter


@dataclass(frozen=True)
class Where(Filter):
    """Keep the rows whose value lies between two limits, or is one of several values.

    Rules: `below`, `above`, `not_among`, `not_a_number` (NaN) and `missing` (None), with the value and the limit or
    the values.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"quality": ["good", "poor"], "reward": [-3.5, -12.0]})
    >>> Where("quality", among=("good", "excellent"))(dataset)["reward"][:]
    [-3.5]
    >>> Where("reward", minimum=-10).split(dataset)[1][0]["rule"]
    'below'

    Raises:
        ValueError: If there are neither limits nor values, or both; or if minimum is above maximum.
    """

    decides_on_none: ClassVar[bool] = True

    column: str = field(metadata={"help": "The column that is read."})
    _: KW_ONLY
    minimum: float | None = field(default=None, metadata={"help": "Lowest number that is kept."})
    maximum: float | None = field(default=None, metadata={"help": "Highest number that is kept."})
    among: tuple[Any, ...] = field(default=(), metadata={"help": "Values that are kept; of a ClassLabel, names."})

    def __post_init__(self) -> None:
        """Check the condition."""
        super().__post_init__()
        if any(not isinstance(value, str | int | float | bool) for value in self.among):
            raise ValueError(f"Where.among must be texts, numbers or truth values, got {self.among!r}.")
        limits = [limit for limit in (self.minimum, self.maximum) if limit is not None]
        if bool(limits) == bool(self.among):
            raise ValueError(
                "Where needs either limits (minimum, maximum) or values (among), got "
                f"minimum={self.minimum}, maximum={self.maximum}, among={self.among}."
            )
        if limits != sorted(limits):
            raise ValueError(f"Where.minimum must be at most maximum={self.maximum}, got {self.minimum}.")

    def check_features(self, features: Features) -> Features:
        """Return the features unchanged.

        Raises:
            ColumnError: If the column is missing; holds lists or structs; or holds class labels, and the condition
                isn't about their names.
        """
        kind = super().check_features(features)[self.column]
        if not isinstance(kind, Value | ClassLabel):
            raise ColumnError(
                f"{self.name} compares numbers, texts or truth values; column {self.column!r} holds {kind!s:.200}."
            )
        if isinstance(kind, ClassLabel) and not set(self.among) & set(kind.names):
            raise ColumnError(
                f"{self.name} compares class labels by name; column {self.column!r} has the names {kind.names}. "
                "Use among=(…) with some of them."
            )
        return features

    def decide(self, values: Iterable[Any], kept: Iterable[Any]) -> Iterator[Drop | None]:  # noqa: ARG002
        """Compare each value with the limits, or with the values that are kept."""
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
                f"{type(value).__name__}. For values other than numbers, use among=(…)."
            )
        if self.minimum is not None and value < self.minimum:
            return Drop("below", str(value), str(self.minimum))
        if self.maximum is not None and value > self.maximum:
            return Drop("above", str(value), str(self.maximum))
        return None
