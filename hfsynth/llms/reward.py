"""Reward models: a conversation goes in, a number that says how good its last answer is comes out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from hfsynth.configuration import Configuration
from hfsynth.errors import GenerationError
from hfsynth.field_values import settle_fields
from hfsynth.generation import LLM, Completion, Origin, Request
from hfsynth.llms.model_cache import ModelCache
from hfsynth.llms.model_files import check_files, files_state

if TYPE_CHECKING:
    from hfsynth.llms.classifier import Classifier

_LOADED: ModelCache["Classifier"] = ModelCache()


@dataclass(frozen=True)
class RewardModel(Configuration, LLM):
    """Any sequence-classification model of transformers, as the llm of `Reward`. Loads on first use, once a process.

    A conversation is read as the tokenizer's chat template renders it or, where there is no template, as a pair: what
    was said before the answer, and the answer.

    >>> RewardModel("Skywork/Skywork-Reward-V2-Qwen3-0.6B", dtype="bfloat16").model_name
    'Skywork/Skywork-Reward-V2-Qwen3-0.6B'

    Raises:
        ValueError: If a field is out of its range.
    """

    version: ClassVar[int] = 2

    model: str = field(metadata={"help": "Name on the Hub, or folder."})
    revision: str | None = field(default=None, kw_only=True, metadata={"help": "Branch, tag or commit on the Hub."})
    dtype: str = field(
        default="auto",
        kw_only=True,
        metadata={"help": "Type of the weights: float32, bfloat16, float16; auto is the checkpoint's."},
    )
    device: str | None = field(
        default=None, kw_only=True, metadata={"help": "Device; default: the one accelerate gives this process."}
    )
    trust_remote_code: bool = field(
        default=False,
        kw_only=True,
        metadata={"help": "Run the Python code that the model's folder or repository brings with it."},
    )
    batch_size: int = field(
        default=32,
        kw_only=True,
        metadata={"help": "Most conversations that are read at once; fewer where they don't fit."},
    )

    def __post_init__(self) -> None:
        """Check the fields that can be checked without loading."""
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        settle_fields(self)
        if self.batch_size < 1:
            raise ValueError(f"RewardModel.batch_size is {self.batch_size}; it must be at least 1.")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"RewardModel.dtype is {self.dtype!r}; use auto, float32, bfloat16 or float16.")

    @property
    def model_name(self) -> str:
        """The model as given; of a folder, the last part of its name."""
        return os.path.basename(os.path.normpath(self.model)) if os.path.isdir(self.model) else self.model

    def origin(self) -> Origin:
        """Say what the model's folder, or the cache of the Hub, states of where it comes from."""
        from hfsynth.llms.origin import model_origin

        return model_origin(self.model, self.revision, None)

    def files_state(self) -> str:
        """Return a text that changes when the model's files do: a hash of a folder's content, the Hub's commit."""
        return files_state(self.model, self.revision)

    def load(self) -> "RewardModel":
        """Load the model and its tokenizer, if an equal llm hasn't yet in this process.

        Raises:
            GenerationError: If the model can't be loaded, or was not trained to classify.
        """
        self._loaded()
        return self

    def unload(self) -> None:
        """Give back the memory of the model; the next `complete` loads it again."""
        _LOADED.drop(self._key)

    def __enter__(self) -> "RewardModel":
        """Load."""
        return self.load()

    def __exit__(self, *exception: object) -> None:
        """Unload."""
        self.unload()

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Score conversations whose last turn is the assistant's: the completions have `scores`, and no text.

        One that is longer than the model's context is a completion with `finish_reason="refused"`.

        Raises:
            GenerationError: If a request wants a text to be written or choices to be scored, the model can't be
                loaded, or one conversation alone runs out of memory.
        """
        for request in requests:
            last = request.messages[-1]["role"] if request.messages else ""
            if request.choices or not last == request.role == "assistant":
                wanted = f"the choices {request.choices}" if request.choices else f"the {request.role}'s next turn"
                raise GenerationError(
                    f"{self.model_name} is a reward model: it scores conversations that end with an answer, and "
                    f"writes nothing. It was asked for {wanted}; use TransformersLLM(...) for that."
                )
        return self._loaded().score([request.messages for request in requests], self.batch_size) if requests else []

    @property
    def _key(self) -> str:
        """What is loaded: the batch size is no part of it."""
        return replace(self, batch_size=1).to_json()

    def _loaded(self) -> "Classifier":
        def load() -> "Classifier":
            from hfsynth.llms.classifier import Classifier  # torch and transformers load when a model does

            check_files(self.model)
            return Classifier.load(self)

        return _LOADED.get(self._key, self.files_state(), load)
