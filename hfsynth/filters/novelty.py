"""Novelty (Self-Instruct, arXiv 2212.10560): an instruction stays only if no other one is worded much like it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from hfsynth.filter import Drop, TextFilter
from hfsynth.similarity.rouge import NoveltyPool
from hfsynth.similarity.words import Tokenizer, check_tokenizer


@dataclass(frozen=True, kw_only=True)
class Novelty(TextFilter):
    """Keep a text if its highest ROUGE-L F-measure with every text known, and every one kept, is at most a threshold.

    ROUGE-L compares words of any script: of Chinese, Japanese and Thai each sign, of Korean each syllable; of a text
    without words its symbols or punctuation. To decide as the paper does, say `tokenizer="rouge_score"`: that package
    without a stemmer reads a-z and 0-9 alone. It is for English: a text in another script has hardly a word for it,
    and is either always new or the same as all that share a number or a name with it.

    Drops by the rule `near_another`, with the F-measure, and the text that is nearest.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Name a red fruit!", "Add 2 and 3."]})
    >>> Novelty()(dataset)["instruction"][:]
    ['Name a red fruit.', 'Add 2 and 3.']

    Raises:
        ValueError: If the threshold isn't between 0 and 1, or there is no such tokenizer.
    """

    version: ClassVar[int] = 2
    stateful: ClassVar[bool] = True

    texts: tuple[str, ...] = field(
        default=(), metadata={"help": "Texts that are known beforehand, such as the seeds; no row may be near one."}
    )
    threshold: float = field(default=0.7, metadata={"help": "Highest ROUGE-L F-measure with another that stays."})
    tokenizer: Tokenizer = field(
        default="unicode",
        metadata={
            "help": "Words that are compared: unicode for those of any script, or rouge_score for a-z and 0-9 alone, "
            "as in the paper on Self-Instruct, which is for English."
        },
    )

    def __post_init__(self) -> None:
        """Check the texts, the threshold and the tokenizer."""
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"Novelty.threshold is {self.threshold}; it must be above 0 and below 1.")
        check_tokenizer("Novelty.tokenizer", self.tokenizer)

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:
        """Compare each text with the pool, which it joins if it is new."""
        pool = NoveltyPool((*self.texts, *kept), threshold=self.threshold, tokenizer=self.tokenizer)
        for text in values:
            found = pool.too_near(text)
            if found is None:
                pool.add(text)
            yield Drop("near_another", f"{found.score:.4f}", found.text) if found else None
