"""Base class of the llms that load a checkpoint: check and hash its files, read its card, and cache loaded models."""

import difflib
import hashlib
import json
import logging
import os
import re
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import yaml
from huggingface_hub import RepoCard, try_to_load_from_cache

from hfsynth.chat import ChatTemplate, ChatTokenizer
from hfsynth.config import Configuration, settle_fields
from hfsynth.errors import GenerationError
from hfsynth.fingerprint import hash_file
from hfsynth.llm import LLM, Origin
from hfsynth.secrets import redact

T = TypeVar("T")
C = TypeVar("C", bound="CheckpointLLM[Any]")
logger = logging.getLogger(__name__)

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_GGUF = {"license": "general.license", "language": "general.languages"}  # key of a card → that of a GGUF file
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SETTINGS = {".json", ".jinja", ".model", ".py", ".tiktoken", ".txt"}  # tokenizer, template, configuration, code
_WEIGHTS = {".bin", ".safetensors"}
_TEMPLATES = "additional_chat_templates"  # the one folder inside a model's folder that a tokenizer reads
_HASHED = 256 * 1024**2  # bytes; in a larger file, only some blocks are hashed
_COMMITS: dict[tuple[str, str | None], str] = {}  # name on the Hub, revision → commit


class CheckpointLLM(Configuration, LLM, Generic[T]):
    """An llm whose model is loaded from a checkpoint on first use. In each process, equal llms share one loaded model.

    A subclass is a frozen dataclass with these fields. `T` is the type of the model that its `_load` returns.
    """

    model: str
    revision: str | None
    gguf_file: str | None = None
    dtype: str
    device: str | None = None
    trust_remote_code: bool
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the fields that can be checked without loading."""
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        settle_fields(self)
        name = type(self).__name__
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"{name}.batch_size must be at least 1, got {self.batch_size}.")
        if self.dtype not in _DTYPES:
            raise ValueError(f"{name}.dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}.")

    @property
    def model_name(self) -> str:
        """The model as the user named it; for a folder or a GGUF file, only the last part of the path."""
        if self.gguf_file:
            return self.gguf_file.removesuffix(".gguf")
        return os.path.basename(os.path.normpath(self.model)) if os.path.isdir(self.model) else self.model

    def origin(self) -> Origin:
        """Return the model's license, languages and commit, read from its folder or from the Hub's cache."""
        return model_origin(self.model, self.revision, self.gguf_file)

    def files_state(self) -> str:
        """Return a text that changes when the model's files do: a hash of the folder's files, or the Hub's commit."""
        return files_state(self.model, self.revision, self.gguf_file)

    def check_ready(self) -> None:
        """Check that a model's folder and its GGUF file exist; a name on the Hub is not looked up.

        Raises:
            GenerationError: If one is missing, or the folder holds no model.
        """
        check_files(self.model, self.gguf_file)

    def load(self: C) -> C:
        """Load the model and its tokenizer, unless an equal llm in this process has loaded them.

        Raises:
            GenerationError: If the model can't be loaded, or this class of llm can't run it.
        """
        self.loaded_model()
        return self

    def loaded_model(self) -> T:
        """Return the model in memory; load it if it is not there, or if its files have changed since it was loaded.

        Raises:
            GenerationError: If it can't be loaded, or this process was forked from one that used a GPU.
        """
        prepare_child()
        key, state = self._key, self.files_state()
        if key in LOADED_MODELS and LOADED_MODELS[key][0] != state:
            logger.warning("the files of %s have changed; loading them again", self.model_name)
            self.unload()
        if key not in LOADED_MODELS:
            self.check_ready()
            LOADED_MODELS[key] = state, self._load()
        model: T = LOADED_MODELS[key][1]
        return model

    def unload(self) -> None:
        """Free the model's memory; the next `complete` loads it again."""
        if LOADED_MODELS.pop(self._key, None) is not None:
            from hfsynth.engine.kv_cache import free_memory  # imports torch, which a loaded model has imported already

            free_memory()

    @abstractmethod
    def _load(self) -> T:
        """Load the model."""

    @property
    def _key(self) -> str:
        """The configuration of the model in memory: llms that differ only in their batch sizes share a model."""
        changes: dict[str, Any] = {"batch_size": 1}
        return f"{type(self).__name__} {replace(self, **changes).to_json()}"

    @property
    def _source(self) -> dict[str, Any]:
        """The arguments of `from_pretrained` that name the files.

        No argument is None: transformers would then ask on standard input whether to trust code.
        """
        source: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self.revision:
            source["revision"] = self.revision
        if self.gguf_file:
            source["gguf_file"] = self.gguf_file
        return source


LOADED_MODELS: dict[str, tuple[str, Any]] = {}
"""Configuration of an llm → (state of the model's files when it was loaded, model)."""


def split_gguf_path(model: str, gguf_file: str | None) -> tuple[str, str | None]:
    """Split the path of a GGUF file into its folder, or its repository on the Hub, and the file's name.

    Other names are returned unchanged. `a/b.gguf` is the name of a repository, unless a local file has that path.

    >>> split_gguf_path("/models/smollm2.Q4_1.gguf", None)
    ('/models', 'smollm2.Q4_1.gguf')
    >>> split_gguf_path("user/repository/model.gguf", None)
    ('user/repository', 'model.gguf')
    >>> split_gguf_path("user/model.gguf", None)
    ('user/model.gguf', None)
    """
    is_gguf = model.lower().endswith(".gguf") and (os.path.isfile(model) or _is_path(model))
    if gguf_file is not None or not is_gguf or os.path.isdir(model):
        return model, gguf_file
    folder, name = os.path.split(model)
    return folder or ".", name


def check_files(model: str, gguf_file: str | None = None) -> None:
    """Check a model's folder before it is loaded, so that a mistyped path is not looked up on the Hub.

    Args:
        model: Name on the Hub, or folder.
        gguf_file: GGUF file in that folder.

    Raises:
        GenerationError: If there is no such folder, or the folder holds no model.
    """
    folder = Path(model)
    if folder.is_file():
        raise GenerationError(f"{model!r} can't be loaded: it is a file; use the folder that holds the model.")
    if folder.is_dir():
        if fault := _fault(folder, gguf_file):
            raise GenerationError(f"{model!r} can't be loaded: {fault}")
    elif _is_path(model):
        raise GenerationError(f"{model!r} can't be loaded: there is no such folder.{_advice(model)}")


def files_state(model: str, revision: str | None, gguf_file: str | None = None) -> str:
    """Return a text that changes when a model's files do. The folder's path and the files' times don't change it.

    For a folder, the text is a hash of its files' contents: configuration, tokenizer, chat template, code and weights.
    A copy of the folder has the same hash. Of a file above 256 MiB, only the size and 256 blocks are hashed, so a
    change of a few bytes between two blocks is not noticed. For a model on the Hub, the text is the commit, from the
    Hub or, if the Hub can't be reached, from the cache. A process asks the Hub once for each model and revision, and
    does not ask if the revision is a commit.

    Args:
        model: Name on the Hub, or folder.
        revision: Branch, tag or commit on the Hub.
        gguf_file: GGUF file in that folder or repository.

    Returns:
        "" where neither a folder nor a commit is found.
    """
    if os.path.isdir(model):
        return f"files:{_folder_digest(Path(model), gguf_file)}"
    if _is_path(model):
        return ""
    commit = _hub_commit(model, revision, gguf_file or "config.json")
    return f"commit:{commit}" if commit else ""


def _is_path(model: str) -> bool:
    """Whether a name can only be that of a file or folder."""
    return _HUB_NAME.fullmatch(model) is None


def _fault(folder: Path, gguf_file: str | None) -> str:
    """Return the reason why a folder holds no model or lacks a GGUF file; "" if it has both."""
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if gguf_file:
        if (folder / gguf_file).is_file():
            return ""
        found = f"its GGUF files are {files}" if files else "it has no GGUF file"
        return f"the folder has no {gguf_file!r}; {found}."
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return ""
    if files:
        return f"the folder has no config.json, but {files}; choose one with gguf_file={files[0]!r}."
    inner = [path.parent for pattern in ("*", "snapshots/*") for path in folder.glob(f"{pattern}/config.json")]
    use = f"; use {str(max(inner, key=os.path.getmtime))!r}" if inner else ""
    return f"the folder has no config.json{use}."


def _advice(model: str) -> str:
    """Return a hint for a folder that does not exist: the existing folder with the nearest name, if there is one."""
    if os.path.isdir(os.path.expanduser(model)):
        return f" Write {os.path.expanduser(model)!r}."
    parent, name = os.path.split(os.path.normpath(model))
    try:
        others = sorted(os.listdir(parent or "."))
    except OSError:
        return f" {parent!r} does not exist either." if parent else ""
    near = difflib.get_close_matches(name, others, n=1)
    return f" There is {os.path.join(parent, near[0])!r}." if near else ""


def _folder_digest(folder: Path, gguf_file: str | None) -> str:
    """Hash the files that loading a model reads from a folder and, for an adapter, those of its base model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, path in sorted(_read_files(folder, gguf_file)):
        digest.update(f"{name}\0{hash_file(path, _HASHED)}\n".encode())
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        digest.update(_base_state(adapter).encode())
    return digest.hexdigest()


def _read_files(folder: Path, gguf_file: str | None) -> Iterator[tuple[str, Path]]:
    """List the files that loading reads: (name in the folder, path)."""
    suffixes = _SETTINGS if gguf_file else _SETTINGS | _WEIGHTS
    for path in folder.iterdir():
        if path.suffix in suffixes and path.is_file():
            yield path.name, path
    for path in (folder / _TEMPLATES).glob("*.jinja"):
        yield f"{_TEMPLATES}/{path.name}", path
    if gguf_file and (folder / gguf_file).is_file():
        yield gguf_file, folder / gguf_file


def _base_state(adapter: Path) -> str:
    """Return the state of an adapter's base model; "" if its configuration names no model, or the adapter itself."""
    try:
        configuration = json.loads(adapter.read_text(encoding="utf-8"))
    except ValueError:  # the error comes when the model is loaded
        return ""
    if not isinstance(configuration, dict):  # as above
        return ""
    base = configuration.get("base_model_name_or_path")
    if not isinstance(base, str) or Path(base).resolve() == adapter.parent.resolve():
        return ""
    return files_state(base, configuration.get("revision"))


def _hub_commit(model: str, revision: str | None, file: str) -> str:
    """Return the commit of a revision on the Hub; "" if neither the Hub nor the cache has one."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    if (model, revision) not in _COMMITS:
        commit = _remote_commit(model, revision, file) or _cached_commit(model, revision, file)
        if not commit:
            return ""
        _COMMITS[model, revision] = commit
    return _COMMITS[model, revision]


def _remote_commit(model: str, revision: str | None, file: str) -> str:
    """Return the commit that the Hub reports; "" if the Hub can't be reached or doesn't have the model."""
    from httpx2 import TransportError
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        return get_hf_file_metadata(hf_hub_url(model, file, revision=revision)).commit_hash or ""
    except (OSError, ValueError, TransportError) as error:
        logger.info("the Hub did not return the commit of %s; the cached one is used: %s", model, redact(str(error)))
        return ""


def _cached_commit(model: str, revision: str | None, file: str) -> str:
    """Return the commit of the snapshot that is cached for a revision; "" if none is cached."""
    cached = try_to_load_from_cache(model, file, revision=revision)
    parts = Path(cached).parts if isinstance(cached, str) else ()
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def model_origin(model: str, revision: str | None, gguf_file: str | None) -> Origin:
    """Return the license, languages and commit that a model's card or GGUF file states.

    Args:
        model: Name on the Hub, or folder.
        revision: Branch, tag or commit on the Hub.
        gguf_file: GGUF file in that folder or repository.
    """
    if Path(model).is_dir():
        return _folder_origin(Path(model), gguf_file, "")
    file = try_to_load_from_cache(model, gguf_file or "config.json", revision=revision)
    if not isinstance(file, str):
        return Origin()
    folders = Path(file).parts
    depth = folders.index("snapshots") + 2
    return _folder_origin(Path(*folders[:depth]), gguf_file, folders[depth - 1])


def _folder_origin(folder: Path, gguf_file: str | None, commit: str) -> Origin:
    """Return the origin that a folder's card states or, without a card, the metadata of the GGUF file."""
    card = folder / "README.md"
    if card.is_file():
        try:
            return Origin.of_card(RepoCard.load(card, ignore_metadata_errors=True).data.to_dict(), commit)
        except (ValueError, yaml.YAMLError):  # an unreadable card counts as a card without metadata
            return Origin(commit)
    return _gguf_origin(folder / gguf_file, commit) if gguf_file else Origin(commit)


@cache
def _gguf_origin(file: Path, commit: str) -> Origin:
    """Return the origin that a GGUF file states. Cached, since reading its vocabulary takes seconds for each step."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    stated = {key: fields[name].contents() for key, name in _GGUF.items() if name in fields}
    return Origin.of_card(stated, commit)


@contextmanager
def parse_gguf_once() -> Iterator[None]:
    """Let all code that parses a GGUF file in this context share the parsed file and the table of tensor names.

    transformers parses the file for the tokenizer, for the configuration and for the weights, and `model_origin` for
    the license. A vocabulary of 49,000 tokens takes seconds each time. For the weights, transformers also computes the
    table of tensor names once for each module, 397 times for SmolLM2-135M.
    """
    if find_spec("gguf") is None:  # transformers raises the error
        yield
        return
    gguf: Any = import_module("gguf")  # Any, because mypy forbids replacing a class of a module
    reader, name_map = gguf.GGUFReader, gguf.get_tensor_name_map
    if not isinstance(reader, type):  # this context is inside another one, which shares the file already
        yield
        return

    class PlainReader(reader):  # type: ignore[misc, valid-type] # a class that is only imported here
        """A reader whose `data` is a plain array: each slice of a memory map is a slow Python call."""

        @property
        def data(self) -> Any:
            return self._plain_data

        @data.setter
        def data(self, data: Any) -> None:
            self._plain_data = np.asarray(data)

    parse = cache(PlainReader)
    gguf.GGUFReader = lambda file, mode="r": parse(os.fspath(file), mode)
    gguf.get_tensor_name_map = cache(name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, name_map


@parse_gguf_once()
def load_chat_tokenizer(model: str, *, name: str, variables: Mapping[str, Any], **source: Any) -> ChatTokenizer:
    """Load the tokenizer and chat template of a model, without its weights.

    Args:
        model: Name on the Hub, or folder. Where it holds a tokenizer but no model configuration, the context has no
            limit, and an answer ends with the tokenizer's EOS token.
        name: The model, for error messages.
        variables: The chat template's variables besides the messages.
        source: Arguments of `from_pretrained` that name the files: revision, gguf_file, trust_remote_code.

    Raises:
        GenerationError: If there is no tokenizer, or it has no chat template.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **source)
    except (OSError, ValueError, ImportError) as error:
        raise loading_error(model, source.get("revision"), error) from error
    try:
        config = AutoConfig.from_pretrained(model, **source)
    except (OSError, ValueError) as error:
        logger.info(
            "%s has no model configuration; its context has no limit, and its end token is the tokenizer's: %s",
            name,
            error,
        )
        return chat_tokenizer(name, tokenizer, variables, None, None)
    try:
        defaults = GenerationConfig.from_pretrained(model, revision=source.get("revision", "main"))
    except OSError:  # without this file, transformers also derives the defaults from the model's configuration
        defaults = GenerationConfig.from_model_config(config)
    return chat_tokenizer(name, tokenizer, variables, config, defaults)


def chat_tokenizer(
    name: str, tokenizer: Any, variables: Mapping[str, Any], config: Any, generation_config: Any
) -> ChatTokenizer:
    """Return the `ChatTokenizer` of a checkpoint.

    Args:
        name: The model, for error messages.
        tokenizer: A tokenizer of transformers.
        variables: The chat template's variables besides the messages.
        config: The model's configuration, which states the context length; None if there is none.
        generation_config: The model's generation config, which states the end tokens; None if there is none.

    Raises:
        GenerationError: If the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise GenerationError(f"the tokenizer of {name!r} has no chat template; use an instruct model.")
    ends = getattr(generation_config, "eos_token_id", None)
    end_tokens = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    context = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
    template = ChatTemplate.of_tokenizer(name, tokenizer, variables)
    return ChatTokenizer(tokenizer, template, frozenset(end_tokens), context)


def loading_error(name: str, revision: str | None, error: Exception) -> GenerationError:
    """Return the error for a model that can't be loaded.

    Args:
        name: The model, as the user named it.
        revision: Branch, tag or commit on the Hub.
        error: The exception that transformers raised.
    """
    if "trust_remote_code" in str(error):
        return GenerationError(
            f"{name!r} can't be loaded: loading would run Python code of its own in this process. "
            "Read the code; if you trust it, set trust_remote_code=True on the llm, and pin its revision."
        )
    return GenerationError(f"{name!r} (revision {revision}) can't be loaded: {error}")


@dataclass
class _BeforeFork:
    """The state of a process when it last forked; a child inherits it."""

    process: int = 0
    has_torch: bool = False
    has_gpu: bool = False

    def update(self) -> None:
        """Set all fields to the state of this process, which is about to fork."""
        cuda = sys.modules.get("torch.cuda")
        self.process = os.getpid()
        self.has_torch = "torch" in sys.modules
        self.has_gpu = bool(getattr(cuda, "is_initialized", bool)())


_BEFORE_FORK = _BeforeFork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_BEFORE_FORK.update)


def prepare_child() -> None:
    """Let torch compute with one thread if this process was forked, since its other threads would deadlock.

    Raises:
        GenerationError: If the parent had used a GPU.
    """
    if _BEFORE_FORK.process in (0, os.getpid()) or not _BEFORE_FORK.has_torch:
        return
    if _BEFORE_FORK.has_gpu:
        raise GenerationError(
            "this process was forked, as Dataset.map(..., num_proc=...) does, after its parent had used the GPU, "
            "which it can't share. Use map without num_proc, or pipeline.run under `accelerate launch`."
        )
    import torch

    torch.set_num_threads(1)
    logger.warning(
        "process %d was forked after torch had been loaded, and computes with 1 thread; for more, let no llm load "
        "before Dataset.map(..., num_proc=...)",
        os.getpid(),
    )
    _BEFORE_FORK.process = os.getpid()
