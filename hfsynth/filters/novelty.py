"""Novelty (Self-Instruct, arXiv 2212.10560): keep an instruction only if its wording differs enough."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from hfsynth.filter import Drop, TextFilter
from hfsynth.similarity.rouge import NoveltyPool
from hfsynth.similarity.words import Tokenizer, check_tokenizer


@dataclass(frozen=True, kw_only=True)
class Novelty(TextFilter):
    """Keep a text if its ROUGE-L F-measure with every earlier text that was kept, and with `texts`, is low enough.

    ROUGE-L compares words of any script: in Chinese, Japanese, Thai, Lao, Khmer and Burmese each character, in Korean
    each syllable, and in a text without words its symbols or punctuation. The most frequent polite endings and
    particles of Japanese and Korean count as one word each. The paper's own decisions come from
    `tokenizer="rouge_score"`: the words of that package without a stemmer, which are runs of a-z and 0-9. They suit
    only English: in another script, texts that share a number or a name count as equal, and others as new.

    Rule: `near_another`, with the F-measure and the nearest text.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Name a red fruit!", "Add 2 and 3."]})
    >>> Novelty()(dataset)["instruction"][:]
    ['Name a red fruit.', 'Add 2 and 3.']

    Raises:
        ValueError: If the threshold is not between 0 and 1, or the tokenizer is unknown.
    """

    version: ClassVar[int] = 2
    stateful: ClassVar[bool] = True

    texts: tuple[str, ...] = field(default=(), metadata={"help": "Texts, such as the seeds, that no row may be near."})
    threshold: float = field(default=0.7, metadata={"help": "Highest ROUGE-L F-measure that is kept."})
    tokenizer: Tokenizer = field(
        default="unicode",
        metadata={
            "help": "Words that are compared: unicode, for any script, or rouge_score, the paper's, for English."
        },
    )

    def __post_init__(self) -> None:
        """Check the texts, the threshold and the tokenizer."""
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"Novelty.threshold must be above 0 and below 1, got {self.threshold}.")
        check_tokenizer("Novelty.tokenizer", self.tokenizer)

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:
        """Compare each text with the pool, and add it to the pool if it is new."""
        pool = NoveltyPool((*self.texts, *kept), threshold=self.threshold, tokenizer=self.tokenizer)
        for text in values:
            found = pool.match(text)
            if found is None:
                pool.add(text)
            yield Drop("near_another", f"{found.score:.4f}", found.text) if found else None
