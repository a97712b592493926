"""Deduplicate: of texts that are equal, or nearly so, the first one stays.

Near-duplicates by embeddings are Magpie's (arXiv 2406.08464): a row is one if the squared distance of its vector, by
all-mpnet-base-v2, to the nearest one is below 0.05, which is a cosine similarity above 0.975; the lowest index stays.
Those by MinHash share most of their shingles (Broder, 1997).
"""

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import ClassVar, Literal, get_args

from hfsynth.filter import Drop, TextFilter
from hfsynth.similarity.embeddings import check_installed, embed
from hfsynth.similarity.minhash import equal_texts, near_texts, similar_texts
from hfsynth.similarity.rouge import Nearest

Way = Literal["exact", "minhash", "embeddings"]
_THRESHOLDS = {"exact": 1.0, "minhash": 0.8, "embeddings": 0.975}


@dataclass(frozen=True)
class Deduplicate(TextFilter):
    """Keep the first of texts that are as similar as the threshold says, or more.

    - `exact`: equal after Unicode's NFKC, case folding, without invisible characters, and with one space for any white
      space;
    - `minhash`: the Jaccard similarity of their sets of five characters in a row, after the same. Runs of words are
      for pages: of an instruction of ten words, one word that is changed leaves hardly a run of five. What is dropped
      has been measured; of pairs right at the threshold one in a hundred is missed, above it hardly any;
    - `embeddings`: the cosine similarity of a model's vectors, 0.975 being Magpie's squared distance of 0.05. Needs
      `hfsynth[embeddings]`. A model reads the beginning of a long text alone; Magpie's, the default, is for English.

    The first two hold for any script.

    Drops by the rule `duplicate`, or else `near_duplicate`, with the similarity and the text that stayed.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a fruit.", "name  a FRUIT.", "Name a fish."]})
    >>> Deduplicate()(dataset)["instruction"][:]
    ['Name a fruit.', 'Name a fish.']

    Raises:
        ValueError: If `by` isn't one of these, or a number is out of its range.
    """

    version: ClassVar[int] = 2
    stateful: ClassVar[bool] = True

    by: Way = field(default="exact", metadata={"help": "What is compared: exact, minhash or embeddings."})
    _: KW_ONLY
    threshold: float | None = field(
        default=None,
        metadata={"help": "Lowest similarity of a duplicate. Default: 0.8 by minhash, 0.975 by embeddings."},
    )
    shingle: int = field(default=5, metadata={"help": "minhash: characters that are compared at a time."})
    permutations: int = field(
        default=128, metadata={"help": "minhash: hashes of each text; with more of them, less is measured in vain."}
    )
    model: str = field(
        default="sentence-transformers/all-mpnet-base-v2",
        metadata={
            "help": "embeddings: a model of sentence-transformers, by its name on the Hub or its folder. The default "
            "is Magpie's, for English; sentence-transformers/paraphrase-multilingual-mpnet-base-v2 reads 50 languages."
        },
    )
    revision: str | None = field(
        default=None, metadata={"help": "embeddings: branch, tag or commit of the model on the Hub."}
    )

    def __post_init__(self) -> None:
        """Check the way and its numbers, and fill in the threshold."""
        super().__post_init__()
        if self.by not in get_args(Way):
            raise ValueError(f"Deduplicate.by is {self.by!r}; it must be one of {list(get_args(Way))}.")
        threshold = _THRESHOLDS[self.by] if self.threshold is None else self.threshold
        if not 0 < threshold <= 1 or (self.by == "exact" and threshold != 1):
            allowed = "1, as equal texts are" if self.by == "exact" else "above 0 and at most 1"
            raise ValueError(f"Deduplicate.threshold is {threshold}; by {self.by} it must be {allowed}.")
        object.__setattr__(self, "threshold", threshold)
        for name, least in (("shingle", 1), ("permutations", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"Deduplicate.{name} is {getattr(self, name)}; it must be at least {least}.")

    def check_ready(self) -> None:
        """Check that the package for embeddings is there, where they are compared.

        Raises:
            ImportError: If it isn't.
        """
        if self.by == "embeddings":
            check_installed()

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:
        """Compare each text with those that stayed."""
        rule = "duplicate" if self.by == "exact" else "near_duplicate"
        for found in self._found(values, kept):
            yield Drop(rule, f"{found.score:.4f}", found.text) if found else None

    def _found(self, texts: Iterable[str], kept: Iterable[str]) -> Iterator[Nearest | None]:
        threshold = _THRESHOLDS[self.by] if self.threshold is None else self.threshold
        if self.by == "exact":
            return equal_texts(texts, kept)
        if self.by == "minhash":
            return similar_texts(texts, kept, threshold, self.shingle, self.permutations)
        return near_texts(texts, kept, threshold, partial(embed, model=self.model, revision=self.revision))
