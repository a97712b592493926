"""The llm for causal language models of transformers, run in this process on the device that accelerate assigns."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hfsynth.distributed import local_world_size, process_device
from hfsynth.errors import GenerationError
from hfsynth.llm import Completion, Request, Requests, complete_by_stream
from hfsynth.llms.checkpoint import (
    CheckpointLLM,
    chat_tokenizer,
    loading_error,
    parse_gguf_once,
    split_gguf_path,
)

if TYPE_CHECKING:
    from hfsynth.engine.model import CausalLM

# tokens/s of an H100 with a model of 135M parameters, requests of at most 512 tokens: 19,600 with 256 rows at once,
# 25,600 with 512, 28,600 with 1,024
_DEFAULT_BATCH_SIZE = {"cpu": 96, "cuda": 512}
_OTHER_BATCH_SIZE = 256


@dataclass(frozen=True)
class TransformersLLM(CheckpointLLM["CausalLM"]):
    """A causal language model from the Hub or a folder. Loads on first use; equal llms of a process share the model.

    >>> llm = TransformersLLM("HuggingFaceTB/SmolLM2-135M-Instruct", dtype="bfloat16")
    >>> llm.model_name
    'HuggingFaceTB/SmolLM2-135M-Instruct'

    Raises:
        ValueError: If a field is out of its range.
    """

    version: ClassVar[int] = 2

    model: str = field(metadata={"help": "Name on the Hub, folder, or path of a GGUF file."})
    revision: str | None = field(default=None, kw_only=True, metadata={"help": "Branch, tag or commit on the Hub."})
    dtype: str = field(
        default="auto",
        kw_only=True,
        metadata={
            "help": "Type of the weights: float32, bfloat16, float16; auto is the checkpoint's (bfloat16 for GGUF); "
            "a CPU then computes in float32 where that is faster."
        },
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
            "help": "Most rows that are generated at once; default: 96 on a CPU, 512 on a CUDA device, else 256. "
            "Fewer where they don't fit."
        },
    )

    @property
    def parallel_requests(self) -> int:
        """The batch size; if it is not set, the default for the device of this process."""
        if self.batch_size is not None:
            return self.batch_size
        device = self.device or process_device().type
        return _DEFAULT_BATCH_SIZE.get(device.partition(":")[0], _OTHER_BATCH_SIZE)

    def __post_init__(self) -> None:
        """Check the fields that can be checked without loading, and split a GGUF file's path into folder and name."""
        super().__post_init__()
        model, gguf_file = split_gguf_path(self.model, self.gguf_file)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "gguf_file", gguf_file)

    def prompt(self, request: Request) -> str:
        """Return the exact text that the model reads for a request.

        Raises:
            ChatTemplateError: If the model's chat template can't render it.
        """
        return self.loaded_model().chat.prompt(request)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, in their order.

        The completion has `finish_reason="refused"` if the chat template refuses the request, or if its prompt leaves
        no room in the model's context. If memory runs out, batches become smaller.

        Raises:
            ChatTemplateError: If every request needs something that the chat template lacks, such as a system role.
            GenerationError: If the model can't be loaded, a batch of one row runs out of memory, or the last turn of
                every conversation is an answer already, as for a reward model.
        """
        return complete_by_stream(self, requests)

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Yield each completion as soon as it is finished; the next request then takes its slot.

        Raises:
            ChatTemplateError: As `complete` does, for the requests that are waiting when the stream starts.
            GenerationError: As `complete` does.
        """
        return self.loaded_model().stream(requests, self.parallel_requests)

    def _load(self) -> "CausalLM":
        """Load the model and its tokenizer.

        Raises:
            GenerationError: If they can't be loaded, or the tokenizer has no chat template.
        """
        from transformers import AutoTokenizer

        from hfsynth.engine.model import CausalLM

        try:
            with parse_gguf_once():
                tokenizer = AutoTokenizer.from_pretrained(self.model, **self._source)
                model = self._load_weights()
                if self.gguf_file:
                    self.origin()  # the file is parsed now, and the result is cached
        except (OSError, ValueError, ImportError) as error:
            raise loading_error(self.model, self.revision, error) from error
        chat = chat_tokenizer(
            self.model_name, tokenizer, self.chat_template_kwargs, model.config, model.generation_config
        )
        return CausalLM(model, chat)

    def _load_weights(self) -> Any:
        """Load the weights onto this process's device or, with a `device_map`, onto several devices."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.quantization_config import GgufConfig

        from hfsynth.engine.packed_linear import consists_of_linears, faster_cpu_dtype

        processes = local_world_size()
        if self.device_map and processes > 1:
            raise GenerationError(
                f"device_map is {self.device_map!r}, and {processes} processes run on this node, each of which would "
                "take all its devices; launch one process for each node (--num_processes 1)."
            )
        device = torch.device(self.device or process_device())
        is_chosen = self.dtype == "auto" and device.type == "cpu" and not self.device_map
        dtype: str | torch.dtype = self.dtype
        options: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)} if self.gguf_file else {}
        if self.gguf_file and self.dtype == "auto":  # quantized weights have no type of their own
            dtype = torch.bfloat16
        if self.device_map:
            options["device_map"] = self.device_map
        model: Any = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype, **self._source, **options)
        if not self.device_map:
            model.to(device)
        if is_chosen:
            chosen = faster_cpu_dtype(model.dtype, self.model_name, consists_of_linears(model))
            if chosen is not model.dtype:  # which would round rotary frequencies, and other float32 numbers, to it
                model.to(chosen)
        return model.eval()
