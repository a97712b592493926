"""Which of some texts, one after the other, are equal or nearly so to one before them that stayed.

Each function takes the texts, and those that stayed before them, and gives for each text the one it repeats, or None;
`repeating_texts` looks at some texts alone, however many there are before them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfsynth.similarity.rouge import Nearest
from hfsynth.similarity.words import normal_form

Vectors = NDArray[np.float32]  # texts × dimensions, each of length 1
_BLOCK = 256  # texts that are embedded, and compared with another so many, at once
_FOUND = 0.99  # the chance that a pair right at the threshold is compared; the more alike, the higher it is


def equal_texts(texts: Iterable[str], kept: Iterable[str]) -> Iterator[Nearest | None]:
    """Find texts with an equal normal form: the same but for width, case and white space."""
    seen: dict[str, str] = {}
    for text in kept:
        seen.setdefault(normal_form(text), text)
    for text in texts:
        form = normal_form(text)
        yield Nearest(seen[form], 1.0) if form in seen else None
        seen.setdefault(form, text)


def similar_texts(
    texts: Iterable[str], kept: Iterable[str], threshold: float, length: int, permutations: int
) -> Iterator[Nearest | None]:
    """Find texts of which the sets of shingles have a Jaccard similarity of a threshold or more.

    Candidates come from MinHash and locality-sensitive hashing, and each is measured: what is found is always right,
    and of pairs right at the threshold one in a hundred may be missed.

    Args:
        texts: The texts.
        kept: Those that stayed before them.
        threshold: The lowest similarity that counts, above 0 and at most 1.
        length: Characters of a shingle.
        permutations: Hashes of a text; with more of them, fewer candidates are measured in vain.
    """
    index, sketch = _index(threshold, permutations)
    stayed: list[str] = []

    def take_up(text: str, sketched: Any) -> None:
        index.insert(len(stayed), sketched)
        stayed.append(text)

    for text in kept:
        take_up(text, sketch(shingles(text, length)))
    for text in texts:
        parts = shingles(text, length)
        sketched = sketch(parts)
        best = Nearest("", 0.0)
        for place in sorted(index.query(sketched)):
            similarity = jaccard(parts, shingles(stayed[place], length))
            best = Nearest(stayed[place], similarity) if similarity > best.score else best
        if best.score < threshold:
            take_up(text, sketched)
        yield best if best.score >= threshold else None


def repeating_texts(
    texts: Iterable[str], chosen: Mapping[int, str], threshold: float, length: int, permutations: int
) -> set[int]:
    """Find which of some chosen texts are similar to a text before them, whether that stayed or not.

    Only the chosen texts fill memory. What is found, and what may be missed, is as with `similar_texts`.

    Args:
        texts: All texts.
        chosen: Places of some of them, from 0 → the text there.
        threshold: The lowest similarity that counts, above 0 and at most 1.
        length: Characters of a shingle.
        permutations: Hashes of a text.
    """
    index, sketch = _index(threshold, permutations)
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


def _index(threshold: float, permutations: int) -> tuple[Any, Callable[[frozenset[str]], Any]]:
    """Return an empty index of sketches, and what makes a sketch of a text's shingles."""
    from datasketch import MinHash, MinHashLSH
    from xxhash import xxh32_intdigest

    empty = MinHash(num_perm=permutations, hashfunc=xxh32_intdigest)

    def sketch(parts: frozenset[str]) -> MinHash:
        made = empty.copy()
        made.update_batch([part.encode("utf-8", "surrogatepass") for part in parts])
        return made

    return MinHashLSH(num_perm=permutations, params=bands(threshold, permutations)), sketch


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return how many bands of how many hashes each let pairs at the threshold meet in one, nearly always.

    datasketch's own choice weighs what is missed against what is measured in vain, which costs no more than time. The
    bands are as few as will do, since each takes some 400 bytes for a text.

    >>> bands(0.8, 128)
    (16, 6)
    """
    for row in range(permutations // 2, 0, -1):
        for count in range(2, permutations // row + 1):
            if 1 - (1 - threshold**row) ** count >= _FOUND:
                return count, row
    return permutations, 1


def shingles(text: str, length: int) -> frozenset[str]:
    """Return all runs of so many characters in a text's normal form; of a shorter text, all of it.

    >>> sorted(shingles("Tea  Time", 6))
    ['a time', 'ea tim', 'tea ti']
    """
    form = normal_form(text)
    return frozenset(form[start : start + length] for start in range(max(1, len(form) - length + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return how much of all that two sets have is common to them, from 0 to 1."""
    return len(one & other) / len(one | other)


def near_texts(
    texts: Iterable[str], kept: Iterable[str], threshold: float, embed: Callable[[list[str]], Vectors]
) -> Iterator[Nearest | None]:
    """Find texts of which the vectors have a cosine similarity of a threshold or more.

    Every pair is measured, in blocks, so that only the vectors themselves fill memory. A block of texts is read ahead.

    Args:
        texts: The texts.
        kept: Those that stayed before them.
        threshold: The lowest similarity that counts.
        embed: Texts → their vectors.
    """
    stayed = [(block, embed(block)) for block in _blocks(iter(kept))]
    for block in _blocks(iter(texts)):
        vectors = embed(block)
        scores, met = _nearest(vectors, stayed)
        among = vectors @ vectors.T  # block × block
        new: list[int] = []
        for place in range(len(block)):
            if new and among[place, new].max() > scores[place]:
                other = new[int(among[place, new].argmax())]
                scores[place], met[place] = among[place, other], block[other]
            score = round(float(scores[place]), 6)  # the digits beyond are float32's own
            if score < threshold:
                new.append(place)
            yield Nearest(met[place], score) if score >= threshold else None
        stayed.append(([block[place] for place in new], vectors[new]))


def _nearest(vectors: Vectors, stayed: list[tuple[list[str], Vectors]]) -> tuple[Vectors, list[str]]:
    """Return how near the nearest text that stayed is to each of some vectors, and that text; the first of several."""
    scores, met = np.full(len(vectors), -np.inf, np.float32), [""] * len(vectors)
    for texts, others in stayed:
        if not texts:
            continue
        similarity = vectors @ others.T  # vectors × others
        places, best = similarity.argmax(axis=1), similarity.max(axis=1)
        for row in np.flatnonzero(best > scores):
            scores[row], met[row] = best[row], texts[places[row]]
    return scores, met


def _blocks(texts: Iterator[str]) -> Iterator[list[str]]:
    while block := list(islice(texts, _BLOCK)):
        yield block
