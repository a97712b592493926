"""Novelty (Self-Instruct, arXiv 2212.10560): an instruction stays only if no other one is worded much like it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from hfsynth.filter import Drop
from hfsynth.filters.texts import TextFilter
from hfsynth.likeness.novelty import NoveltyPool


@dataclass(frozen=True, kw_only=True)
class Novelty(TextFilter):
    """Keep a text if its highest ROUGE-L F-measure with every text known, and every one kept, is at most a threshold.

    The decisions are those of `rouge_score` without a stemmer on every pair. It reads a-z and 0-9 alone: a text in
    another script has no words for it and is always new; `Deduplicate` is for those.

    Drops by the rule `near_another`, with the F-measure, and the text that is nearest.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Name a red fruit!", "Add 2 and 3."]})
    >>> Novelty()(dataset)["instruction"][:]
    ['Name a red fruit.', 'Add 2 and 3.']

    Raises:
        ValueError: If the threshold isn't between 0 and 1.
    """

    remembers: ClassVar[bool] = True

    texts: tuple[str, ...] = field(
        default=(), metadata={"help": "Texts that are known beforehand, such as the seeds; no row may be near one."}
    )
    threshold: float = field(default=0.7, metadata={"help": "Highest ROUGE-L F-measure with another that stays."})

    def __post_init__(self) -> None:
        """Check the texts and the threshold."""
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"Novelty.threshold is {self.threshold}; it must be above 0 and below 1.")

    def decide(self, texts: Iterator[str], kept: Iterator[str]) -> Iterator[Drop | None]:
        """Compare each text with the pool, which it joins if it is new."""
        pool = NoveltyPool((*self.texts, *kept), threshold=self.threshold)
        for text in texts:
            found = pool.too_near(text)
            if found is None:
                pool.add(text)
            yield Drop("near_another", f"{found.score:.4f}", found.text) if found else None
