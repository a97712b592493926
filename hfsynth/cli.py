"""Command-line parsers from dataclasses: one flag for each field, with the help text in the field's metadata.

A `bool` becomes `--flag / --no-flag`. A mapping or a union of types takes JSON, or a plain text that isn't JSON. A
nested `SamplingParams` becomes a flag for each of its own fields: `sampling` gives `--temperature`,
`response_sampling` gives `--response-temperature`.
"""

import dataclasses
import dis
import json
import os
import re
import sys
import types
import typing
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from rich.console import Console

from hfsynth.data import load_rows
from hfsynth.distributed import is_main_process
from hfsynth.errors import ChatTemplateError, ColumnError, GenerationError, PushError, RunError
from hfsynth.llm import LLM, SamplingParams
from hfsynth.llms.openai import OpenAILLM
from hfsynth.llms.transformers import TransformersLLM
from hfsynth.llms.vllm import VLLM
from hfsynth.pipeline import Pipeline
from hfsynth.publish.files import check_config_name, save
from hfsynth.publish.hub import check_push_target
from hfsynth.record import METADATA_COLUMN, records, split_failures
from hfsynth.runner.rounds import EmptyRows, RowSource, format_acceptance
from hfsynth.secrets import redact
from hfsynth.training_format import training_format

T = TypeVar("T")
LLMS: dict[str, type[LLM]] = {"transformers": TransformersLLM, "vllm": VLLM, "openai": OpenAILLM}
"""Value of --llm → the llm class whose fields become flags."""
_PACKAGE = Path(__file__).parent
_EXPECTED = (ColumnError, ChatTemplateError, GenerationError, RunError, PushError, OSError)


@dataclass(frozen=True)
class RunArguments:
    """Input and output of a script."""

    dataset: str | None = field(
        default=None,
        metadata={"help": "Input: a dataset on the Hub, a folder, or a json, jsonl, csv, parquet or txt file."},
    )
    config: str | None = field(default=None, metadata={"help": "Configuration of the input."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of the input, on the Hub."}
    )
    split: str = field(default="train", metadata={"help": "Split of the input."})
    max_rows: int | None = field(
        default=None, metadata={"help": "Maximum number of input rows; default: all, or ten times --num-rows."}
    )
    num_rows: int | None = field(
        default=None,
        metadata={"help": "Stop after this many accepted rows. Default: process the entire input."},
    )
    max_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens for --num-rows; a round that is likely to exceed it does not begin."
        },
    )
    output_dir: str = field(default="outputs", metadata={"help": "Folder for the result, laid out as on the Hub."})
    run_dir: str | None = field(
        default=None, metadata={"help": "Folder for finished rows; default: a folder in the cache of datasets."}
    )
    chunk_size: int | None = field(
        default=None,
        metadata={"help": "Rows of a chunk, which is saved as one file; default: depends on the number of rows."},
    )
    deterministic: bool = field(
        default=False,
        metadata={"help": "Complete one chunk at a time, so that every run batches the same rows together; slower."},
    )
    format: str | Mapping[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Convert the result to one of TRL's dataset types, such as prompt-completion; a JSON object sets "
            "more fields of TrainingFormat."
        },
    )
    push_to_hub: str | None = field(
        default=None,
        metadata={
            "help": "Dataset on the Hub, user/name, to push the result to; checked before anything is generated."
        },
    )
    private: bool | None = field(
        default=None,
        metadata={"help": "Whether to create a private dataset on the Hub; default: the namespace's setting."},
    )
    preview: bool = field(
        default=False,
        metadata={
            "help": "Only show the prompts and completions of the first rows, and estimate the cost of all rows."
        },
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Configuration to write the result as; default: the technique's name."}
    )

    def __post_init__(self) -> None:
        """Check that all numbers are positive.

        Raises:
            ValueError: If one is below 1.
        """
        for name in ("max_rows", "num_rows", "max_tokens", "chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"RunArguments.{name} must be at least 1, got {value}.")

    def rows(self) -> Dataset | None:
        """Load the input rows.

        Returns:
            The dataset's rows. Without a dataset, None if `num_rows` is set, else `max_rows` rows with only an `id`.

        Raises:
            ValueError: If `dataset`, `num_rows` and `max_rows` are all None, or the file's type isn't supported.
        """
        if self.dataset is None:
            if self.num_rows is None and self.max_rows is None:
                raise ValueError("no input: give --dataset, or --num-rows for a technique that needs no columns.")
            return None if self.num_rows else EmptyRows().rows(0, self.max_rows or 0, ())
        rows = load_rows(self.dataset, self.config, self.split, self.dataset_revision)
        return rows if self.max_rows is None else rows.select(range(min(self.max_rows, len(rows))))


@contextmanager
def plain_errors(*classes: type) -> Iterator[None]:
    """Print a one-line message for errors that the user can fix, and exit; other errors keep their traceback.

    Use this as the decorator of a script's `main`. Exit statuses: 1 after an error, 130 after Ctrl-C.

    Args:
        classes: The dataclasses, besides `RunArguments`, whose fields are flags. Errors name flags, not fields.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to continue from the rows that are finished.\n")
        sys.exit(130)
    except (RuntimeError, ValueError, TypeError, ImportError, OSError) as error:
        if not _is_for_the_user(error):
            raise
        text = " ".join(redact(str(error) or type(error).__name__).split())
        # a name without "_" may be an ordinary word of the message
        names = [name for cls in classes for name, *_ in _flags(cls) if "_" in name]
        flags = {name: _flag(name) for name in (*(f.name for f in dataclasses.fields(RunArguments)), *names)}
        sys.stderr.write(f"error: {_in_flags(text, flags)}\n")
        sys.exit(1)


def _is_for_the_user(error: BaseException) -> bool:
    """Return whether an error is about the input, the flags or the machine, rather than a bug.

    An error of a general class such as ValueError counts only if a `raise` statement raised it, and if that statement
    is in hfsynth or the script, or ran while the input was loaded.
    """
    if isinstance(error, _EXPECTED):
        return True
    trace = error.__traceback__
    files = list[str]()
    while trace is not None:
        code, last = trace.tb_frame.f_code, trace.tb_lasti
        files.append(code.co_filename)
        raised = dis.opname[code.co_code[last]] == "RAISE_VARARGS"
        own = trace.tb_frame.f_globals.get("__name__") == "__main__" or _PACKAGE in Path(code.co_filename).parents
        trace = trace.tb_next
    return raised and (own or str(_PACKAGE / "data.py") in files)


def _in_flags(text: str, flags: Mapping[str, str]) -> str:
    r"""Replace fields in an error message, such as `SamplingParams.top_p` or a name at its beginning, by flags.

    >>> _in_flags("SamplingParams.top_p is 2.", {"top_p": "--top-p"})
    '--top-p is 2.'
    >>> _in_flags("Rename one with input_mappings={'a': 'b'}.", {"input_mappings": "--input-mappings"})
    'Rename one with --input-mappings \'{"a": "b"}\'.'
    """
    if not flags:
        return text
    names = "|".join(map(re.escape, flags))
    text = re.sub(rf"\b({names})=(\{{[^{{}}]*\}})", lambda found: f"{flags[found[1]]} '{_as_json(found[2])}'", text)
    return re.sub(rf"(?:\b[A-Z]\w*\.|^)({names})\b(?![\w.-])", lambda found: flags[found[1]], text)


def _as_json(text: str) -> str:
    """Return the repr of a dict of texts as JSON."""
    return text.replace("'", '"')


def run_and_save(pipeline: Pipeline, run: RunArguments, config_name: str, source: RowSource | None = None) -> None:
    """Run a pipeline with a script's arguments, save the result, and push it if `push_to_hub` is set.

    Args:
        pipeline: The pipeline.
        run: The script's arguments.
        config_name: Configuration name of the result, unless the arguments have one.
        source: Input that replaces that of the arguments.
    """
    name = run.config_name or config_name
    check_config_name(name)
    if run.format is not None:
        pipeline >>= training_format(run.format)
    if not run.preview:
        _check_output_dir(Path(run.output_dir))
    if run.push_to_hub and is_main_process():
        check_push_target(run.push_to_hub, config_name=name)
    input_rows = source or run.rows()
    max_rows = run.max_rows if run.num_rows else None  # without num_rows, run.rows() has applied the limit
    if run.preview:
        preview = pipeline.preview(
            input_rows, num_rows=run.num_rows, max_rows=max_rows, max_tokens=run.max_tokens, chunk_size=run.chunk_size
        )
        if is_main_process():
            Console().print(preview)
        return
    dataset = pipeline.run(
        input_rows,
        num_rows=run.num_rows,
        max_rows=max_rows,
        max_tokens=run.max_tokens,
        run_dir=run.run_dir,
        chunk_size=run.chunk_size,
        deterministic=run.deterministic,
    )
    save(dataset, run.output_dir, config_name=name)
    rows = split_failures(dataset)[0] if METADATA_COLUMN in dataset.column_names else dataset
    print_main(f"{len(rows)} rows in {run.output_dir}, {_format_outcome(dataset)}")
    if run.push_to_hub:
        url = pipeline.push_to_hub(dataset, run.push_to_hub, config_name=name, private=run.private)
        print_main(f"pushed: {url}")


def _check_output_dir(folder: Path) -> None:
    """Check before a run that its result can be written.

    Raises:
        ValueError: If the folder, or the nearest one above it that exists, is a file or can't be written.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        fault = "can't be written" if nearest.is_dir() else "is a file"
        raise ValueError(f"output_dir is {str(folder)!r}, but {str(nearest)!r} {fault}; name another folder.")


def _format_outcome(dataset: Dataset) -> str:
    """Return a summary of a run: rows that failed, were dropped or cut off, and the acceptance rate for `num_rows`."""
    record = records(dataset)[-1]
    failed = sum(sum(step.failures.values()) for step in record.steps)
    dropped = sum(step.dropped for step in record.steps)
    truncated = sum(step.truncated for step in record.steps)
    text = f"{failed} failed" + (f", {dropped} dropped" if dropped else "")
    text += f", {truncated} with a text that was cut off" if truncated else ""
    return f"{text}; {format_acceptance(record.accepted, record.source.rows)}" if record.wanted else text


def print_main(text: str) -> None:
    """Print a line on the main process only."""
    if is_main_process():
        print(text)  # noqa: T201 - a script's own output


def llm_class(flags: Sequence[str] | None = None) -> type[LLM]:
    """Return the llm class that --llm names, to be passed to `build_parser`.

    Args:
        flags: The command line; default: this process's.

    >>> llm_class(["--llm", "openai", "--model", "small"]).__name__
    'OpenAILLM'
    """
    choice = ArgumentParser(add_help=False, allow_abbrev=False)
    _add_llm_flag(choice)
    return LLMS[choice.parse_known_args(flags)[0].engine]


def _add_llm_flag(group: Any) -> None:
    group.add_argument(
        "--llm",
        dest="engine",  # `llm` is a technique's field
        choices=LLMS,
        default="transformers",
        help="Engine; --llm NAME --help lists its flags. Default: transformers.",
    )


def build_parser(description: str | None, *classes: type) -> ArgumentParser:
    """Return a parser with a flag for each field of some dataclasses, grouped by class."""
    flags = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    for cls in classes:
        group = flags.add_argument_group(cls.__name__, (cls.__doc__ or "").splitlines()[0])
        if issubclass(cls, LLM):
            _add_llm_flag(group)
        for name, kind, declared in _flags(cls):
            _add_flag(group, name, kind, declared)
    return flags


def from_args(cls: type[T], arguments: Namespace, llm: LLM | None = None) -> T:
    """Return a dataclass built from parsed flags; a flag that is not set leaves the field's default.

    Args:
        cls: A dataclass that was passed to `build_parser`.
        arguments: The parsed flags.
        llm: The llm, for a technique.

    Raises:
        ValueError: If a value is out of its range.
    """
    values: dict[str, Any] = {} if llm is None else {"llm": llm}
    for declared in dataclasses.fields(cls):  # type: ignore[arg-type]
        if isinstance(declared.default, SamplingParams):
            values_of_flags = _set_flags(
                arguments, [f.name for f in dataclasses.fields(SamplingParams)], _prefix(declared.name)
            )
            with _named_by_flags(SamplingParams, _prefix(declared.name)):
                values[declared.name] = dataclasses.replace(declared.default, **values_of_flags)
        else:
            values |= _set_flags(arguments, [declared.name], "")
    with _named_by_flags(cls):
        return cls(**values)


@contextmanager
def _named_by_flags(cls: type, prefix: str = "") -> Iterator[None]:
    """Replace fields by flags in the errors that a dataclass raises."""
    try:
        yield
    except (ValueError, TypeError) as error:
        flags = {f.name: _flag(prefix + f.name) for f in dataclasses.fields(cls)}
        if len(error.args) == 1:
            error.args = (_in_flags(str(error), flags),)
        raise


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _set_flags(arguments: Namespace, names: list[str], prefix: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, prefix + name, None)) is not None}


def _prefix(field_name: str) -> str:
    """Return the flag prefix of a nested field: "" for `sampling`, "response_" for `response_sampling`."""
    return field_name.removesuffix("sampling")


def _flags(cls: type, prefix: str = "") -> "list[tuple[str, Any, dataclasses.Field[Any]]]":
    """List the flags of a dataclass: (name, type, field)."""
    hints = typing.get_type_hints(cls)
    flags: list[tuple[str, Any, dataclasses.Field[Any]]] = []
    for declared in dataclasses.fields(cls):
        if isinstance(declared.default, SamplingParams):
            nested = dataclasses.fields(declared.default)
            own = _flags(SamplingParams, _prefix(declared.name))
            defaults = [getattr(declared.default, f.name) for f in nested]
            flags += [(name, kind, _with_default(f, d)) for (name, kind, f), d in zip(own, defaults, strict=True)]
        elif declared.name != "llm":
            flags.append((prefix + declared.name, hints[declared.name], declared))
    return flags


def _with_default(declared: "dataclasses.Field[Any]", default: Any) -> "dataclasses.Field[Any]":
    copy: dataclasses.Field[Any] = dataclasses.field(default=default, metadata=declared.metadata)
    return copy


def _add_flag(group: Any, name: str, kind: Any, declared: "dataclasses.Field[Any]") -> None:
    help_text = declared.metadata["help"].replace("%", "%%")
    required = declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING
    if declared.default not in (None, "", (), dataclasses.MISSING) and len(str(declared.default)) < 40:
        help_text += f" Default: {declared.default}.".replace("%", "%%")
    flag = _flag(name)
    options: dict[str, Any] = {"dest": name, "help": help_text, "required": required, "default": None}
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if isinstance(kind, types.UnionType) and len(members) == 1:
        kind = members[0]
    if kind is bool:
        group.add_argument(flag, action=BooleanOptionalAction, **options)
    elif kind in (int, float, str):
        group.add_argument(flag, type=kind, metavar=kind.__name__.upper(), **options)
    elif typing.get_origin(kind) is tuple:
        group.add_argument(flag, nargs="+", metavar="TEXT", **options)
    else:
        group.add_argument(flag, type=_json_or_text, metavar="JSON", **options)


def _json_or_text(text: str) -> Any:
    """Return the value of a text that is a JSON list or object; return any other text unchanged.

    Raises:
        ArgumentTypeError: If the text begins like JSON, as `{"` and `["` do, but isn't valid JSON.
    """
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if re.match(r"""\s*(?:\{\s*["'}]|\[\s*["'{\[])""", text):  # "[INST] Be brief." and "{{ x }}" are texts
            raise ArgumentTypeError(f"{text!r} is not JSON: {error.msg} (column {error.colno})") from error
        return text
    return value if isinstance(value, Mapping) else tuple(value)
