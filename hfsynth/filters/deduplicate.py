"""Deduplicate: keep the first of texts that are equal or nearly so.

Deduplication by embeddings follows Magpie (arXiv 2406.08464), which drops a row if the squared distance of its
all-mpnet-base-v2 embedding to the nearest one is below 0.05: a cosine similarity above 0.975.
"""

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import ClassVar, Literal, get_args

from hfsynth.data import find_path
from hfsynth.filter import Drop, TextFilter
from hfsynth.fingerprint import hash_files
from hfsynth.similarity.near_duplicates import (
    PERMUTATIONS,
    SHINGLE_LENGTH,
    check_installed,
    embed,
    match_equal,
    match_near,
    match_similar,
)
from hfsynth.similarity.words import Match

Similarity = Literal["exact", "minhash", "embeddings"]
_THRESHOLDS = {"exact": 1.0, "minhash": 0.8, "embeddings": 0.975}


@dataclass(frozen=True)
class Deduplicate(TextFilter):
    """Keep the first of texts whose similarity reaches the threshold.

    - `exact`: texts are equal after NFKC and case folding, without invisible characters, with one space for any white
      space.
    - `minhash`: the Jaccard similarity of their character shingles, after the same normalization. Shingles of words
      suit pages, but in an instruction of ten words one changed word leaves almost no shingle of five. Every dropped
      row is a true match; about one in a hundred pairs exactly at the threshold is missed.
    - `embeddings`: the cosine similarity of a model's embeddings. Needs `hfsynth[embeddings]`. Of a long text only the
      beginning that fits the model is read; the default model, Magpie's, is for English.

    The first two support any script.

    Rules: `duplicate` (`exact`) and `near_duplicate`, with the similarity and the text that was kept.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a fruit.", "name  a FRUIT.", "Name a fish."]})
    >>> Deduplicate()(dataset)["instruction"][:]
    ['Name a fruit.', 'Name a fish.']

    Raises:
        ValueError: If `by` is unknown or a number is out of range.
    """

    version: ClassVar[int] = 2
    stateful: ClassVar[bool] = True

    by: Similarity = field(default="exact", metadata={"help": "Similarity: exact, minhash or embeddings."})
    _: KW_ONLY
    threshold: float | None = field(
        default=None,
        metadata={"help": "Lowest similarity of a duplicate; by default 0.8 for minhash and 0.975 for embeddings."},
    )
    shingle: int = field(default=SHINGLE_LENGTH, metadata={"help": "minhash: characters of a shingle."})
    permutations: int = field(
        default=PERMUTATIONS,
        metadata={"help": "minhash: hashes of each text."},
    )
    model: str = field(
        default="sentence-transformers/all-mpnet-base-v2",
        metadata={
            "help": "embeddings: a model of sentence-transformers, by its name on the Hub or its folder. For other "
            "languages than English: sentence-transformers/paraphrase-multilingual-mpnet-base-v2."
        },
    )
    revision: str | None = field(
        default=None, metadata={"help": "embeddings: branch, tag or commit of the model on the Hub."}
    )

    def __post_init__(self) -> None:
        """Check the fields, and fill in the default threshold."""
        super().__post_init__()
        if self.by not in get_args(Similarity):
            raise ValueError(f"Deduplicate.by must be one of {list(get_args(Similarity))}, got {self.by!r}.")
        threshold = _THRESHOLDS[self.by] if self.threshold is None else self.threshold
        if not 0 < threshold <= 1 or (self.by == "exact" and threshold != 1):
            allowed = "1" if self.by == "exact" else "above 0 and at most 1"
            raise ValueError(f"Deduplicate.threshold must be {allowed} by {self.by}, got {threshold}.")
        object.__setattr__(self, "threshold", threshold)
        for name, least in (("shingle", 1), ("permutations", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"Deduplicate.{name} must be at least {least}, got {getattr(self, name)}.")

    @property
    def loads_model(self) -> bool:
        """Whether embeddings are compared."""
        return self.by == "embeddings"

    def check_ready(self) -> None:
        """Check for the package and the model's folder, if embeddings are compared.

        Raises:
            ImportError: If the package is missing.
            ValueError: If the model has the form of a path, and nothing is there.
        """
        if self.by == "embeddings":
            check_installed()
            find_path(self.model)

    def files_state(self) -> str:
        """Return a hash of the contents of the embedding model's folder; "" if there is none."""
        path = find_path(self.model) if self.by == "embeddings" else None
        return "" if path is None else hash_files(path)

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:
        """Match each text with the texts that were kept."""
        rule = "duplicate" if self.by == "exact" else "near_duplicate"
        for found in self._matches(values, kept):
            yield Drop(rule, f"{found.score:.4f}", found.text) if found else None

    def _matches(self, texts: Iterable[str], kept: Iterable[str]) -> Iterator[Match | None]:
        threshold = _THRESHOLDS[self.by] if self.threshold is None else self.threshold
        if self.by == "exact":
            return match_equal(texts, kept)
        if self.by == "minhash":
            return match_similar(texts, kept, threshold, self.shingle, self.permutations)
        return match_near(texts, kept, threshold, partial(embed, model=self.model, revision=self.revision))
