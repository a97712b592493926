"""Texts as vectors, by a model of sentence-transformers."""

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfsynth.similarity.minhash import Vectors


def embed(texts: list[str], model: str, revision: str | None = None) -> "Vectors":
    """Return the texts' vectors, each of length 1.

    Args:
        texts: Any texts; of a long one, as much as the model reads.
        model: Name on the Hub, or folder.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ImportError: If sentence-transformers isn't installed.
        ValueError: If the model can't be loaded.
    """
    vectors: Vectors = _loaded(model, revision).encode(
        texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    )
    return vectors


def check_installed() -> None:
    """Check that there is a package for embeddings, without loading it.

    Raises:
        ImportError: If there isn't.
    """
    if find_spec("sentence_transformers") is None:
        raise ImportError(
            "embeddings need sentence-transformers, which isn't installed: pip install 'hfsynth[embeddings]'."
        )


@lru_cache(maxsize=1)
def _loaded(model: str, revision: str | None) -> Any:
    """Load a model, once for all the chunks of a step."""
    check_installed()
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"the embeddings model {model!r}, revision {revision}, can't be loaded: {error}") from error
