"""The models that llms have loaded in this process: one for all of equal configuration, while its files stay so."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hfsynth.llms import forks

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass
class ModelCache(Generic[T]):
    """Loaded models by the configuration of their llms."""

    _models: dict[str, tuple[str, T]] = field(default_factory=dict)
    """Configuration → state of the model's files when it was loaded, what was loaded."""

    def get(self, key: str, state: str, load: Callable[[], T]) -> T:
        """Return what was loaded for a configuration; load it where nothing was, or its files have changed since.

        Args:
            key: Configuration of the llm.
            state: `LLM.files_state`.
            load: Loads the model.

        Raises:
            GenerationError: If this process was forked from one that used a GPU.
        """
        forks.prepare_child()
        if key in self._models and self._models[key][0] != state:
            logger.warning("the files of a loaded model have changed: they are loaded again")
            self.drop(key)
        if key not in self._models:
            self._models[key] = state, load()
        return self._models[key][1]

    def drop(self, key: str) -> None:
        """Give back the memory of what was loaded for a configuration, if anything was."""
        if self._models.pop(key, None) is not None:
            from hfsynth.llms.memory import free_memory  # torch loads when a model does

            free_memory()

    def __len__(self) -> int:
        """Return how many models are loaded."""
        return len(self._models)
