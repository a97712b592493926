"""How numbers are spread: quartiles, mean, and a histogram."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BINS = 20


@dataclass(frozen=True)
class Spread:
    """The spread of numbers that may be fractions; as `reporting.figures.Lengths` is of whole ones.

    A quartile is the least number that this share of the numbers doesn't exceed.
    """

    count: int
    smallest: float
    lower: float
    """First quartile."""
    median: float
    upper: float
    """Third quartile."""
    largest: float
    mean: float
    edges: tuple[float, ...]
    """Of a histogram's bins, of equal widths."""
    counts: tuple[int, ...]
    """Numbers in each bin; the last one holds the largest too."""

    @classmethod
    def of(cls, values: NDArray[np.float64], limits: tuple[float, float] | None = None) -> "Spread | None":
        """Work it out; None where there are no numbers.

        Args:
            values: The numbers, all finite.
            limits: Where the histogram begins and ends. Default: at the smallest number and the largest.
        """
        if not len(values):
            return None
        lower, median, upper = (float(np.quantile(values, q, method="inverted_cdf")) for q in (0.25, 0.5, 0.75))
        counts, edges = np.histogram(values, bins=_BINS, range=limits)
        return cls(
            count=len(values),
            smallest=float(values.min()),
            lower=lower,
            median=median,
            upper=upper,
            largest=float(values.max()),
            mean=float(values.mean()),
            edges=tuple(edges.tolist()),
            counts=tuple(counts.tolist()),
        )
