"""Any causal language model of transformers, in this process, on the device that accelerate gives it."""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from hfsynth.config import Configuration, settle_fields
from hfsynth.llm import LLM, Completion, Origin, Request, Requests
from hfsynth.llms.model_files import ModelCache, check_files, files_state, split_gguf_path

if TYPE_CHECKING:
    from hfsynth.engine.model import Loaded

_LOADED: ModelCache["Loaded"] = ModelCache()


@dataclass(frozen=True)
class TransformersLLM(Configuration, LLM):
    """A model by its name on the Hub or its folder. Loads on first use, once a process for all equal ones.

    >>> llm = TransformersLLM("HuggingFaceTB/SmolLM2-135M-Instruct", dtype="bfloat16")
    >>> llm.model_name
    'HuggingFaceTB/SmolLM2-135M-Instruct'

    `with llm:` loads on entry and unloads at the end.

    Raises:
        ValueError: If a field is out of its range.
    """

    version: ClassVar[int] = 2

    model: str = field(metadata={"help": "Name on the Hub, folder, or path of a GGUF file."})
    revision: str | None = field(default=None, kw_only=True, metadata={"help": "Branch, tag or commit on the Hub."})
    dtype: str = field(
        default="auto",
        kw_only=True,
        metadata={"help": "Type of the weights: float32, bfloat16, float16; auto is the checkpoint's."},
    )
    device: str | None = field(
        default=None, kw_only=True, metadata={"help": "Device; default: the one accelerate gives this process."}
    )
    gguf_file: str | None = field(
        default=None, kw_only=True, metadata={"help": "GGUF file to load, in the folder or repository of `model`."}
    )
    chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        kw_only=True,
        metadata={"help": "Variables of the chat template, such as enable_thinking or date_string."},
    )
    device_map: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "'auto' spreads the layers of a model over all devices, for one that doesn't fit on one."},
    )
    trust_remote_code: bool = field(
        default=False,
        kw_only=True,
        metadata={"help": "Run the Python code that the model's folder or repository brings with it."},
    )
    batch_size: int | None = field(
        default=None,
        kw_only=True,
        metadata={
            "help": "Most rows that are generated at once; default: 96 on a CPU, else 256. Fewer where they don't fit."
        },
    )

    def __post_init__(self) -> None:
        """Check the fields that can be checked without loading; a GGUF file's path becomes its folder and its name."""
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        settle_fields(self)
        model, gguf_file = split_gguf_path(self.model, self.gguf_file)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "gguf_file", gguf_file)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"TransformersLLM.batch_size is {self.batch_size}; it must be at least 1.")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"TransformersLLM.dtype is {self.dtype!r}; use auto, float32, bfloat16 or float16.")

    @property
    def model_name(self) -> str:
        """The model as given; of a folder or GGUF file, the last part of its name."""
        if self.gguf_file:
            return self.gguf_file.removesuffix(".gguf")
        return os.path.basename(os.path.normpath(self.model)) if os.path.isdir(self.model) else self.model

    def origin(self) -> Origin:
        """Say what the model's folder, or the cache of the Hub, states of where it comes from."""
        from hfsynth.llms.model_files import model_origin

        return model_origin(self.model, self.revision, self.gguf_file)

    def files_state(self) -> str:
        """Return a text that changes when the model's files do: a hash of a folder's content, the Hub's commit."""
        return files_state(self.model, self.revision, self.gguf_file)

    def load(self) -> "TransformersLLM":
        """Load the model and its tokenizer, if an equal llm hasn't yet in this process.

        Raises:
            GenerationError: If the model can't be loaded or its tokenizer has no chat template.
        """
        self._loaded()
        return self

    def unload(self) -> None:
        """Give back the memory of the model; the next `complete` loads it again."""
        _LOADED.drop(self._key)

    def __enter__(self) -> "TransformersLLM":
        """Load."""
        return self.load()

    def __exit__(self, *exception: object) -> None:
        """Unload."""
        self.unload()

    def prompt(self, request: Request) -> str:
        """Return what the model reads for a request, exactly.

        Raises:
            ChatTemplateError: If the model's chat template can't render it.
        """
        return self._loaded().prompt(request)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, in their order.

        A request that the chat template refuses, or whose prompt leaves no room in the model's context, is a
        completion with `finish_reason="refused"`. Where memory runs out, fewer are generated or scored at once.

        Raises:
            ChatTemplateError: If every request needs what the chat template doesn't have: a system role, say.
            GenerationError: If the model can't be loaded, one row alone runs out of memory, or every request is an
                answered conversation, as a reward model takes them.
        """
        waiting = Requests()
        for index, request in enumerate(requests):
            waiting.put(index, request)
        completions = dict(self.stream(waiting)) if requests else {}
        return [completions[index] for index in range(len(requests))]

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Complete requests until none is left, each as soon as it is there; a free slot takes the next one at once.

        Raises:
            ChatTemplateError: As `complete` does, for the requests that wait at the beginning.
            GenerationError: As `complete` does.
        """
        return self._loaded().stream(requests, self.batch_size)

    @property
    def _key(self) -> str:
        """What is loaded: the batch size is no part of it, so llms that differ in nothing else share a model."""
        return replace(self, batch_size=None).to_json()

    def _loaded(self) -> "Loaded":
        def load() -> "Loaded":
            from hfsynth.engine.model import Loaded  # torch and transformers load when a model does

            check_files(self.model, self.gguf_file)
            return Loaded.load(self)

        return _LOADED.get(self._key, self.files_state(), load)
