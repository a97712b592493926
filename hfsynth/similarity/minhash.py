"""Match near-duplicates by the Jaccard similarity of their character shingles, found through MinHash (Broder, 1997).

MinHash and locality-sensitive hashing only propose candidates; the similarity of each is then computed exactly. There
are no false matches, and about 1% of the pairs exactly at the threshold are missed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hfsynth.similarity.words import Match, normal_form

SHINGLE_LENGTH = 5
"""Characters of a shingle."""
PERMUTATIONS = 128
"""Hashes of a text."""
_RECALL = 0.99  # chance that a pair exactly at the threshold is compared; for more similar pairs, it is higher


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
        permutations: Hashes of a text; with more of them, fewer candidates are compared in vain.

    Yields:
        For each text its match and their similarity; None where the text is kept.
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
