"""Match texts that are equal, share most of their characters, or have similar embeddings.

Texts with similar characters are found through MinHash (Broder, 1997): MinHash and locality-sensitive hashing only
propose candidates, and the Jaccard similarity of each candidate's character shingles is then computed exactly. There
are no false matches, and about 1% of the pairs exactly at the threshold are missed. Embeddings are those of a model of
sentence-transformers, compared by cosine similarity.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfsynth.similarity.words import Match, normal_form

SHINGLE_LENGTH = 5
"""Characters of a shingle."""
PERMUTATIONS = 128
"""Hashes of a text."""
Vectors = NDArray[np.float32]
"""Embeddings of length 1: (texts, dimensions)."""
_RECALL = 0.99  # chance that a pair exactly at the threshold is compared; for more similar pairs, it is higher
_BLOCK = 256  # texts that are embedded, and compared with another block, at once


# --- equal texts ---


def match_equal(texts: Iterable[str], kept: Iterable[str]) -> Iterator[Match | None]:
    """Match each text with the first earlier one that has the same normal form.

    Args:
        texts: The texts.
        kept: Texts before these.

    Yields:
        For each text the earlier one, with a score of 1; None if the text is the first of its form.
    """
    first: dict[str, str] = {}
    for text in kept:
        first.setdefault(normal_form(text), text)
    for text in texts:
        form = normal_form(text)
        yield Match(first[form], 1.0) if form in first else None
        first.setdefault(form, text)


# --- similar characters ---


def match_similar(
    texts: Iterable[str],
    kept: Iterable[str],
    threshold: float,
    length: int = SHINGLE_LENGTH,
    permutations: int = PERMUTATIONS,
) -> Iterator[Match | None]:
    """Match each text with the most similar text that was kept; a text without a match is kept itself.

    Args:
        texts: The texts.
        kept: Texts that were kept before these.
        threshold: The lowest similarity of a match, above 0 and at most 1.
        length: Characters of a shingle.
        permutations: Hashes of a text; the more there are, the fewer false candidates are compared.

    Yields:
        For each text its match and their similarity; None if the text is kept.
    """
    index, sketch = _create_index(threshold, permutations)
    indexed: list[str] = []

    def keep(text: str, sketched: Any) -> None:
        index.insert(len(indexed), sketched)
        indexed.append(text)

    for text in kept:
        keep(text, sketch(shingles(text, length)))
    for text in texts:
        parts = shingles(text, length)
        sketched = sketch(parts)
        best = Match("", 0.0)
        for place in sorted(index.query(sketched)):
            similarity = jaccard(parts, shingles(indexed[place], length))
            best = Match(indexed[place], similarity) if similarity > best.score else best
        if best.score < threshold:
            keep(text, sketched)
        yield best if best.score >= threshold else None


def find_repeating(
    texts: Iterable[str],
    chosen: Mapping[int, str],
    threshold: float,
    length: int = SHINGLE_LENGTH,
    permutations: int = PERMUTATIONS,
) -> set[int]:
    """Find which of some chosen texts are similar to any text before them.

    Only the chosen texts are held in memory.

    Args:
        texts: All texts, in order.
        chosen: Place of a chosen text among all, from 0 → the text.
        threshold: The lowest similarity that counts, above 0 and at most 1.
        length: Characters of a shingle.
        permutations: Hashes of a text.

    Returns:
        The places of those that are similar to an earlier text.
    """
    index, sketch = _create_index(threshold, permutations)
    for place, text in chosen.items():
        index.insert(place, sketch(shingles(text, length)))
    waiting, found = set(chosen), set[int]()
    for place, text in enumerate(texts):
        if place in waiting:
            index.remove(place)
            waiting.discard(place)
        if not waiting:
            break
        parts = shingles(text, length)
        for other in index.query(sketch(parts)):
            if jaccard(parts, shingles(chosen[other], length)) >= threshold:
                index.remove(other)
                waiting.discard(other)
                found.add(other)
    return found


def shingles(text: str, length: int) -> frozenset[str]:
    """Return all runs of `length` characters in a text's normal form; a shorter text is one run.

    >>> sorted(shingles("Tea  Time", 6))
    ['a time', 'ea tim', 'tea ti']
    """
    form = normal_form(text)
    return frozenset(form[start : start + length] for start in range(max(1, len(form) - length + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets: the size of their intersection over that of their union."""
    return len(one & other) / len(one | other)


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return the number of bands, and of hashes in each, by which pairs at the threshold become candidates.

    datasketch's own choice weighs missed pairs against needless comparisons, which only cost time. Of the choices
    that find a pair with a chance of 0.99, this is the one with the fewest bands: each takes about 400 bytes a text.

    >>> bands(0.8, 128)
    (16, 6)
    """
    for row in range(permutations // 2, 0, -1):
        for count in range(2, permutations // row + 1):
            if 1 - (1 - threshold**row) ** count >= _RECALL:
                return count, row
    return permutations, 1


def _create_index(threshold: float, permutations: int) -> tuple[Any, Callable[[frozenset[str]], Any]]:
    """Return an empty index of sketches, and the function that computes the sketch of a set of shingles."""
    from datasketch import MinHash, MinHashLSH
    from xxhash import xxh32_intdigest

    empty = MinHash(num_perm=permutations, hashfunc=xxh32_intdigest)

    def sketch(parts: frozenset[str]) -> MinHash:
        sketched = empty.copy()
        sketched.update_batch([part.encode("utf-8", "surrogatepass") for part in parts])
        return sketched

    return MinHashLSH(num_perm=permutations, params=bands(threshold, permutations)), sketch


# --- similar embeddings ---


def embed(texts: list[str], model: str, revision: str | None = None) -> Vectors:
    """Return the embeddings of texts, each of length 1.

    Args:
        texts: The texts; of a long one, only as much as the model's context holds is read.
        model: Name on the Hub, or folder.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ImportError: If sentence-transformers is not installed.
        ValueError: If the model can't be loaded.
    """
    vectors: Vectors = _load_model(model, revision).encode(
        texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    )
    return vectors


def check_installed() -> None:
    """Check that sentence-transformers is installed, without importing it.

    Raises:
        ImportError: If the package is missing.
    """
    if find_spec("sentence_transformers") is None:
        raise ImportError(
            "embeddings need sentence-transformers, which isn't installed: pip install 'hfsynth[embeddings]'."
        )


def match_near(
    texts: Iterable[str], kept: Iterable[str], threshold: float, embed: Callable[[list[str]], Vectors]
) -> Iterator[Match | None]:
    """Match each text with the nearest text that was kept; a text without a match is kept itself.

    All pairs are compared, block by block, so only the embeddings themselves fill memory. One block is read ahead.

    Args:
        texts: The texts.
        kept: Texts that were kept before these.
        threshold: The lowest cosine similarity of a match.
        embed: Texts → their embeddings.

    Yields:
        For each text its match and their similarity; None if the text is kept.
    """
    pool = [(block, embed(block)) for block in _blocks(kept)]
    for block in _blocks(texts):
        vectors = embed(block)
        scores, matches = _nearest(vectors, pool)
        among = vectors @ vectors.T  # (block, block)
        new: list[int] = []
        for place in range(len(block)):
            if new and among[place, new].max() > scores[place]:
                other = new[int(among[place, new].argmax())]
                scores[place], matches[place] = among[place, other], block[other]
            score = round(float(scores[place]), 6)  # further digits are rounding errors of float32
            if score < threshold:
                new.append(place)
            yield Match(matches[place], score) if score >= threshold else None
        pool.append(([block[place] for place in new], vectors[new]))


def _nearest(vectors: Vectors, pool: list[tuple[list[str], Vectors]]) -> tuple[Vectors, list[str]]:
    """Return for each embedding the highest similarity with a text of the pool, and the first text that has it."""
    scores, matches = np.full(len(vectors), -np.inf, np.float32), [""] * len(vectors)
    for texts, others in pool:
        if not texts:
            continue
        similarity = vectors @ others.T  # (vectors, others)
        places, best = similarity.argmax(axis=1), similarity.max(axis=1)
        for row in np.flatnonzero(best > scores):
            scores[row], matches[row] = best[row], texts[places[row]]
    return scores, matches


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while block := list(islice(remaining, _BLOCK)):
        yield block


@lru_cache(maxsize=1)
def _load_model(model: str, revision: str | None) -> Any:
    """Load a model once for all chunks of a step."""
    check_installed()
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"the embeddings model {model!r}, revision {revision}, can't be loaded: {error}") from error
