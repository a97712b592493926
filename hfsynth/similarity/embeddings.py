"""Embed texts with a model of sentence-transformers, and match them by cosine similarity."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfsynth.similarity.words import Match

Vectors = NDArray[np.float32]
"""Embeddings of length 1: (texts, dimensions)."""
_BLOCK = 256  # texts that are embedded, and compared with another block, at once


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
        For each text its match and their similarity; None where the text is kept.
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
