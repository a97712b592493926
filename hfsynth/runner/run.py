"""Run a pipeline over a dataset in one or more processes; finished rows are kept on disk and reused.

A run processes its input once, or in rounds until enough rows are accepted. In each round, every step reads the rows
of the step before it. The rows of a step are kept in a folder whose name has a hash of the step and its input: the
same command finds this folder and computes only the missing rows.
"""

import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from datasets import Dataset, DatasetDict, Features, concatenate_datasets, config
from datasets.fingerprint import Hasher

from hfsynth.config import Configuration
from hfsynth.distributed import ProcessGroup, wait_until
from hfsynth.errors import ColumnError, RunError
from hfsynth.llm import LLM
from hfsynth.pipeline import Pipeline
from hfsynth.progress import Progress, without_bars
from hfsynth.record import (
    METADATA_COLUMN,
    RunRecord,
    Source,
    StepRecord,
    attach_record,
    dropped_rows,
    failures_dataset,
    split_failures,
    step_failures,
)
from hfsynth.runner.chunks import StepFolder
from hfsynth.runner.lookahead import Lookahead
from hfsynth.runner.reuse import EarlierRows, StepInput, content_key, fingerprint_of, sibling_folders
from hfsynth.runner.rounds import RowSource, Target, Usage, choose_chunk_size, source_of
from hfsynth.runner.step_worker import DiskErrors, StepWorker, reason_lines, run_dataset_step
from hfsynth.runner.storage import ABANDONED_AFTER
from hfsynth.step import DatasetStep, Step
from hfsynth.technique import Technique

logger = logging.getLogger(__name__)
_SHARED_FOLDER_TIMEOUT = 60.0  # seconds within which a file that another node wrote must appear in a shared folder


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run, the same in all its processes.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM, Pipeline, TextGeneration, run
    >>> rows = Dataset.from_dict({"instruction": ["Say hello.", None]})
    >>> result = run(Pipeline((TextGeneration(EchoLLM()),)), rows, quiet=True)
    >>> result.dataset["generation"][:]
    ['Say hello.', None]
    >>> result.failures[0]["row"], result.failures[0]["reason"]
    (1, 'instruction is None')
    >>> result.record.steps[0].completion_tokens
    2
    """

    dataset: Dataset
    """The rows of the last step; with `num_rows`, only accepted ones."""
    failures: Dataset
    """One row for each row on which a step failed or that a filter dropped, with `step`, `row` (its index in the
    step's input), `column`, `reason` and `raw`; `rule`, `value` and `matched` are set for dropped rows."""
    record: RunRecord
    """The input, and for each step its configuration, model, tokens, times, and counts of rows and failures."""


@overload
def run(
    pipeline: Pipeline,
    dataset: Dataset | RowSource | None = None,
    *,
    num_rows: int | None = None,
    max_rows: int | None = None,
    max_tokens: int | None = None,
    run_dir: str | Path | None = None,
    chunk_size: int | None = None,
    deterministic: bool = False,
    quiet: bool = False,
) -> RunResult: ...


@overload
def run(  # type: ignore[overload-cannot-match] # mypy knows no types of datasets
    pipeline: Pipeline,
    dataset: DatasetDict,
    *,
    num_rows: int | None = None,
    max_rows: int | None = None,
    max_tokens: int | None = None,
    run_dir: str | Path | None = None,
    chunk_size: int | None = None,
    deterministic: bool = False,
    quiet: bool = False,
) -> dict[str, RunResult]: ...


def run(
    pipeline: Pipeline,
    dataset: Dataset | DatasetDict | RowSource | None = None,
    *,
    num_rows: int | None = None,
    max_rows: int | None = None,
    max_tokens: int | None = None,
    run_dir: str | Path | None = None,
    chunk_size: int | None = None,
    deterministic: bool = False,
    quiet: bool = False,
) -> RunResult | dict[str, RunResult]:
    """Run all steps of a pipeline over a dataset, computing only what no earlier run has finished.

    The splits of a `DatasetDict` run one after the other, each as a dataset of its own (filters don't compare rows of
    different splits), and the split's name becomes part of every seed, so that equal rows of two splits get different
    generations.

    Args:
        pipeline: The steps.
        dataset: The input. None for techniques that need no columns; then `num_rows` is required. Of a `DatasetDict`,
            every split is run; `num_rows`, `max_rows` and `max_tokens` then count for each split by itself.
        num_rows: Stop after this many accepted rows, that is, rows on which no step failed and that no filter dropped.
            The result has the first accepted rows of a run over the entire input. Default: process the entire input.
        max_rows: With `num_rows`, maximum number of input rows to try. Default: all; without a dataset, ten times
            `num_rows`.
        max_tokens: With `num_rows`, maximum number of prompt and completion tokens in all steps; a round that is
            likely to exceed it does not begin. Default: no limit.
        run_dir: Folder for finished rows, which all nodes must share. Default: a folder in the cache of datasets.
        chunk_size: Rows per chunk; each chunk is saved as one file. Default: by the number of rows (see
            `choose_chunk_size`).
        deterministic: Complete each chunk without rows of other chunks or of the next technique, so that a row has the
            same rows beside it in every run. Needed for llms whose output for a row depends on the rest of the batch.
            Devices then idle at the end of each chunk, and an interrupted chunk is computed from its first row.
        quiet: Show no progress.

    Returns:
        The dataset, its failures and its record; for a `DatasetDict`, those of each split by its name. If the input is
        exhausted or a limit is reached before `num_rows` rows are accepted, the dataset has fewer rows, and a warning
        is logged.

    Raises:
        ColumnError: If a step's input lacks a column or has one of another type. Raised before a model is loaded,
            except for steps after a function, whose columns are unknown until the function has run.
        GenerationError: If an llm can't be loaded.
        RunError: If chunks failed twice, or the run directory can't be written or isn't shared by all nodes. Finished
            rows are kept.
        ValueError: If `chunk_size` or a limit is below 1, a limit is set without `num_rows`, a `DatasetDict` has no
            split, or both the dataset and `num_rows` are missing.
        ImportError, ValueError: If a filter lacks a package or a file.
        TypeError: If a step is passed instead of a pipeline.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM, TextGeneration, WellFormed, run
    >>> rows = Dataset.from_dict({"instruction": ["Name a colour.", "", "Name a fruit."]})
    >>> result = run(WellFormed() >> TextGeneration(EchoLLM()), rows, num_rows=1, quiet=True)
    >>> result.dataset["generation"][:]
    ['Name a colour.']
    >>> splits = DatasetDict(train=rows, test=rows.select([2]))
    >>> {name: len(result.failures) for name, result in run(WellFormed() >> TextGeneration(EchoLLM()), splits).items()}
    {'train': 1, 'test': 0}
    """
    if not isinstance(pipeline, Pipeline):
        raise TypeError(f"run takes a pipeline, got {pipeline!r}; a single step is run by Pipeline((step,)).run(...).")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size must be a positive whole number of rows, got {chunk_size!r}.")
    target = Target.from_options(num_rows, max_rows, max_tokens)
    folder = Path(run_dir) if run_dir is not None else default_run_dir()
    options = _RunOptions(folder, chunk_size or 0, deterministic, quiet)
    if isinstance(dataset, DatasetDict):
        return _run_splits(pipeline, {str(split): rows for split, rows in dataset.items()}, target, options)
    source = source_of(dataset, num_rows)
    pipeline.check(source.rows(0, 0, ()).features)
    return _run_source(pipeline.steps, source, target, options)


def default_run_dir() -> Path:
    """Return the default run directory, a folder in the cache of datasets."""
    return Path(config.HF_DATASETS_CACHE) / "hfsynth"


@dataclass(frozen=True)
class _RunOptions:
    run_dir: Path
    chunk_size: int
    """Rows of a chunk; 0 for `choose_chunk_size`."""
    deterministic: bool
    quiet: bool
    split: str = ""
    """The split of a `DatasetDict` that is run; "" for a dataset."""

    def record(self, source: Source) -> RunRecord:
        """Return the record of a run with these options, without steps."""
        return RunRecord(source, (), self.chunk_size, deterministic=self.deterministic, split=self.split)


def _is_isolated(step: Step, deterministic: bool) -> bool:
    """Whether a step's chunks are completed one at a time: `deterministic`, and its rows depend on their batch."""
    return deterministic and step.same_rows not in (None, "row")


def _run_splits(
    pipeline: Pipeline, splits: Mapping[str, Dataset], target: Target | None, options: _RunOptions
) -> dict[str, RunResult]:
    """Run a pipeline over each split, with the split's seeds, after all splits are checked."""
    if not splits:
        raise ValueError("the DatasetDict has no split; give one with at least one dataset, such as train.")
    for split, rows in splits.items():
        with _named_split(split):
            pipeline.check(source_of(rows, None).rows(0, 0, ()).features)
    results: dict[str, RunResult] = {}
    for split, rows in splits.items():
        if results:
            _unload_later_models(pipeline.steps)
        logger.info("split %s of %s", split, list(splits))
        with _named_split(split):
            of_split = replace(options, split=split)
            results[split] = _run_source(pipeline.for_split(split).steps, source_of(rows, None), target, of_split)
    return results


@contextmanager
def _named_split(split: str) -> Iterator[None]:
    """Name the split in errors of its columns and of its run."""
    try:
        yield
    except (ColumnError, RunError) as error:
        raise type(error)(f"split {split!r}: {error}") from error


def _unload_later_models(steps: Sequence[Step]) -> None:
    """Unload all llms except the first step's, with which the next split begins: only one is in memory at a time."""
    llms = [step.llm for step in steps if isinstance(step, Technique)]
    for number, llm in enumerate(llms):
        if llm != llms[0] and llm not in llms[:number]:
            llm.unload()


def _run_source(steps: Sequence[Step], source: RowSource, target: Target | None, options: _RunOptions) -> RunResult:
    """Run all steps over a dataset or, with a target, over as many rows of a source as it takes."""
    if not options.chunk_size:
        isolated = [
            step.llm for step in steps if isinstance(step, Technique) and _is_isolated(step, options.deterministic)
        ]
        wanted = source.num_rows if target is None else target.num_rows
        options = replace(options, chunk_size=choose_chunk_size(wanted, isolated))
        logger.info("chunks have %d rows each", options.chunk_size)
    if target is None:
        return _run_all(steps, source.rows(0, source.num_rows or 0, ()), options)
    return _run_until(steps, source, target, options)


def _run_all(steps: Sequence[Step], dataset: Dataset, options: _RunOptions) -> RunResult:
    """Run all steps over all rows of a dataset."""
    with _started(steps, options, [content_key(dataset, options.chunk_size)]) as state:
        result = state.run_round(dataset)
    return state.result(result, dataset, options.record(Source.of(dataset)))


def _run_until(steps: Sequence[Step], source: RowSource, target: Target, options: _RunOptions) -> RunResult:
    """Run all steps in rounds, until the target or a limit is reached."""
    usage, accepted, first = Usage(), list[Dataset](), source.rows(0, 0, ())
    with _started(steps, options, [source.fingerprint, target]) as state:
        while count := usage.next_round(target, source, options.chunk_size, state.num_models > 1):
            rows = source.rows(usage.tried, count, accepted)
            first = first if usage.tried else rows
            result = state.run_round(rows, stop_when_empty=True)
            if len(result):
                accepted.append(split_failures(result)[0] if METADATA_COLUMN in result.column_names else result)
            usage = Usage(usage.tried + count, sum(map(len, accepted)), state.tokens)
            logger.info(usage.summary(target))
        if not accepted:  # an empty result still needs its columns
            accepted.append(state.run_round(source.rows(0, 0, ())))
    if usage.accepted < target.num_rows:
        logger.warning(usage.summary(target))
    result = concatenate_datasets(accepted)
    result = result.select(range(min(target.num_rows, len(result))))
    description = source.describe() if isinstance(source, Configuration) else {}
    read = replace(Source.of(first), rows=usage.tried, recipe=description)
    record = options.record(read)
    record = replace(record, wanted=target.num_rows, accepted=usage.accepted, limits=target.limits)
    return state.result(result, first, record)


@contextmanager
def _started(steps: Sequence[Step], options: _RunOptions, keys: Sequence[object]) -> Iterator["_RunState"]:
    """Begin a run; when the block ends, normally or with an exception, write the run's failures.

    Args:
        steps: The steps.
        options: The options of the run.
        keys: Values that identify the input and the target, hashed into the failures file's name.
    """
    group = ProcessGroup.current()
    _check_shared(options.run_dir, group)
    states = [_StepState(step, _step_hash(step, options.deterministic)) for step in steps]
    split = [options.split] if options.split else []
    run_hash = Hasher.hash([*keys, *(state.fingerprint for state in states), options.chunk_size, *split])
    failures = _Failures(options.run_dir / f"failures-{run_hash}.parquet", group, options.split)
    try:
        with (
            Progress(group, len(steps), options.quiet) as progress,
            closing(_RunState(states, options, group, failures, progress)) as state,
        ):
            yield state
        failures.complete = True
    except KeyboardInterrupt:
        if group.is_main:
            logger.warning("stopped; finished chunks are kept in %s, and the same command continues", options.run_dir)
        raise
    finally:
        failures.write()


def _step_hash(step: Step, deterministic: bool) -> str:
    """Return a hash of everything except its input that a step's rows depend on."""
    fingerprint = step.fingerprint()
    return str(Hasher.hash((fingerprint, "isolated chunks"))) if _is_isolated(step, deterministic) else fingerprint


@dataclass
class _StepState:
    """A step, and its results so far."""

    step: Step
    fingerprint: str
    """The step's fingerprint when the run began; later, user code may have changed the step's objects."""
    rows_in: int = 0
    """Number of input rows in earlier rounds."""
    results: list[Dataset] = field(default_factory=list)
    """The step's output in each round."""
    record: StepRecord | None = None
    """The records of its rounds, added up."""


@dataclass(frozen=True)
class _StepFiles:
    """The folders of one step in one round, of this run and of earlier ones."""

    folder: StepFolder
    fingerprint: str
    """The fingerprint of the dataset in `folder`."""
    superseded: Sequence[StepFolder]
    """Folders of earlier runs over the same input that have transient failures; latest first."""
    of_earlier_input: Sequence[StepFolder]
    """Folders of this step for its previous input, before an earlier step retried failed rows and changed it."""

    def earlier_rows(self, technique: Technique, step_hash: str) -> list[EarlierRows]:
        """Return folders with reusable rows: earlier runs, other inputs, and this one if some files were damaged."""
        folders = [folder.path for folder in (*self.superseded, *self.of_earlier_input)]
        folders += [path for path in sibling_folders(self.folder.path, step_hash) if path not in folders]
        if self.folder.has_salvage:
            folders.insert(0, self.folder.path)
        return [EarlierRows(folder, technique) for folder in folders]

    def cleanup(self) -> None:
        """Remove the folders that the finished one replaces."""
        for folder in (*self.superseded, *self.of_earlier_input):
            folder.remove_superseded()


@dataclass
class _RunState:
    """One process's part of a run."""

    steps: list[_StepState]
    options: _RunOptions
    group: ProcessGroup
    failures: "_Failures"
    progress: Progress
    rounds: int = 0
    _llm: LLM | None = None
    """The llm in memory."""
    _lookahead: Lookahead | None = None
    """Chunks of the next technique that began early."""
    _earlier_fingerprints: dict[str, list[str]] = field(default_factory=dict)
    """Fingerprints that a step's output had before transient failures were retried, by its current fingerprint."""

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens so far."""
        records = [state.record for state in self.steps if state.record is not None]
        return sum(record.prompt_tokens + record.completion_tokens for record in records)

    @property
    def num_models(self) -> int:
        """Number of different llms, and of steps with a model of their own; one model at a time is in memory."""
        llms: list[LLM] = []
        for state in self.steps:
            if isinstance(state.step, Technique) and state.step.llm not in llms:
                llms.append(state.step.llm)
        return len(llms) + sum(state.step.loads_model for state in self.steps)

    def run_round(self, dataset: Dataset, stop_when_empty: bool = False) -> Dataset:
        """Run all steps over some rows.

        Args:
            dataset: The rows.
            stop_when_empty: Skip the remaining steps once no row is left. The result may then lack the columns of
                these steps, so a run in which no round has rows runs them once over an empty dataset.
        """
        self.rounds += 1
        for number, state in enumerate(self.steps, 1):
            if stop_when_empty and not len(dataset):
                break
            name = f"{state.step.name} ({self.options.split})" if self.options.split else state.step.name
            self.progress.begin(number, name, len(dataset))
            result, record = self._run_step(number, state, dataset)
            state.record = record if state.record is None else state.record.plus(record)
            state.rows_in += len(dataset)
            state.results.append(result)
            dataset = result
        return dataset

    def close(self) -> None:
        """Stop the rows that began early."""
        if self._lookahead is not None:
            self._lookahead.close()

    def result(self, dataset: Dataset, source: Dataset, record: RunRecord) -> RunResult:
        """Return the run's result, and write its record into the dataset.

        Args:
            dataset: The rows.
            source: The input; its records of earlier runs are kept before this run's.
            record: The record of the run, without steps and failures file.
        """
        steps = tuple(state.record for state in self.steps if state.record is not None)
        failures = self.failures.dataset()
        record = replace(record, steps=steps, failures_file=str(self.failures.file) if len(failures) else "")
        if steps:
            attach_record(dataset, source, record)
        return RunResult(dataset, failures, record)

    def _run_step(self, number: int, state: _StepState, dataset: Dataset) -> tuple[Dataset, StepRecord]:
        step = state.step
        files = self._step_files(number, state, dataset)
        found = files.folder.finished
        features = step.features_after(dataset.features, number)
        if isinstance(step, DatasetStep):
            result, failed = self._run_dataset_step(step, state, dataset, files), 0
            found = True  # dataset steps report no progress while they run, so their rows are counted here
        elif isinstance(step, Technique) and features is not None:
            result, failed = self._run_technique(step, state, dataset, features, files)
        else:
            raise TypeError(f"{step.name} must be a Technique or a DatasetStep, got {type(step).__name__}.")
        if self.group.is_main:
            files.cleanup()
            if found:
                files.folder.cleanup()  # a process may have been killed after step.json and before its cleanup
                self.progress.add(len(dataset), failed=failed, found=True)
        return result, StepRecord.from_json(files.folder.load_record())

    def _run_technique(
        self, technique: Technique, state: _StepState, dataset: Dataset, features: Features, files: _StepFiles
    ) -> tuple[Dataset, int]:
        """Run a technique; return its rows and the number of failed ones."""
        columns = technique.columns_read(dataset.features)
        step_input = StepInput(state.fingerprint, dataset, columns, self.options.chunk_size, state.rows_in)
        folder = replace(files.folder, input=step_input)
        is_isolated = _is_isolated(technique, self.options.deterministic)
        head_start = self._take_head_start(folder)
        if not folder.finished:
            self._swap_model(technique.llm)
            self._lookahead = None if is_isolated else self._look_ahead(state, files)
            if technique.parallel_requests:
                logger.info("%s completes up to %d requests at once", technique.name, technique.parallel_requests)
            worker = StepWorker(
                dataset,
                technique,
                features,
                self.options.chunk_size,
                folder,
                self.group,
                self.progress,
                state.rows_in,
                [] if is_isolated else files.earlier_rows(technique, state.fingerprint),
                self._later_steps(state),
                is_isolated,
                head_start,
                self._lookahead,
            )
            with closing(head_start) if head_start is not None else nullcontext():
                self.failures.run(worker)
        result = folder.load(features, files.fingerprint)
        self.failures.has_transient |= folder.left_transient_failures
        return result, self.failures.add(step_failures(result))

    def _run_dataset_step(self, step: DatasetStep, state: _StepState, dataset: Dataset, files: _StepFiles) -> Dataset:
        """Run a filter or function; return its rows."""
        if not files.folder.finished:
            if step.loads_model:
                self._swap_model(None)
            run_dataset_step(step, dataset, files.folder, self.group, state.results, state.rows_in)
        result = files.folder.load(None, files.fingerprint)
        _check_types(step, state.results, result)
        self.failures.add(files.folder.dropped())
        return result

    def _step_files(self, number: int, state: _StepState, dataset: Dataset) -> _StepFiles:
        """Find the folders of a step.

        Raises:
            RunError: If the processes have different inputs or steps.
        """
        step = state.step
        inputs = [self._input_key(dataset), *self._earlier_fingerprints.get(fingerprint_of(dataset), ())]
        key = self._key(state, inputs[0])
        if not self.group.same_on_all_ranks(f"round-{self.rounds}-step-{number}", key):
            raise RunError(
                f"Process {self.group.rank} has another input or pipeline at step {number} ({step.name}) than "
                "the other processes. Give all processes the same dataset (no random or process-dependent rows) and "
                "the same steps."
            )
        files = self._find_files(state, inputs, len(dataset))
        files.folder.check_finished()
        return files

    def _find_files(self, state: _StepState, inputs: Sequence[str], num_rows: int) -> _StepFiles:
        """Find the folders of a step.

        Args:
            state: The step.
            inputs: The fingerprint of its input, and those of its previous inputs, latest first.
            num_rows: Number of rows of its input.
        """
        step = state.step
        key, *earlier_keys = [self._key(state, fingerprint) for fingerprint in inputs]
        folder, superseded = self._folder(step, key, num_rows).newest()
        of_earlier_input = [folder for key in earlier_keys for folder in self._existing(step, key, num_rows)]
        fingerprint = _fingerprint(key, folder.retries)
        self._earlier_fingerprints[fingerprint] = [
            *(_fingerprint(key, retry) for retry in reversed(range(folder.retries))),
            *(_fingerprint(key, retry) for key in earlier_keys for retry in self._retries(step, key)),
        ]
        return _StepFiles(folder, fingerprint, superseded, of_earlier_input)

    def _take_head_start(self, folder: StepFolder) -> Lookahead | None:
        """Return the lookahead of the previous technique, if it is of this step and of use; else close it."""
        head_start, self._lookahead = self._lookahead, None
        if head_start is not None and (head_start.next_folder.path != folder.path or folder.finished):
            head_start.close()
            return None
        return head_start

    def _look_ahead(self, state: _StepState, files: _StepFiles) -> Lookahead | None:
        """Return the lookahead of a step; None if the next technique can't begin before the step is finished.

        Args:
            state: The step.
            files: The folders of the step.
        """
        filters, fingerprint = list[DatasetStep](), files.fingerprint
        for other in self.steps[self.steps.index(state) + 1 :]:
            next_files = self._find_files(other, [fingerprint, *self._earlier_fingerprints.get(fingerprint, ())], 0)
            fingerprint = next_files.fingerprint
            if isinstance(other.step, DatasetStep) and other.step.is_row_wise and not other.step.loads_model:
                filters.append(other.step)
                continue
            if other.step not in self._later_steps(state) or not isinstance(other.step, Technique):
                return None
            if next_files.folder.finished or _is_isolated(other.step, self.options.deterministic):
                return None
            earlier = next_files.earlier_rows(other.step, other.fingerprint)
            size, first = self.options.chunk_size, other.rows_in
            return Lookahead(files.folder, filters, other.step, next_files.folder, earlier, size, first)
        return None

    def _key(self, state: _StepState, fingerprint: str) -> str:
        """Return the key of a step's folder for an input with this fingerprint."""
        earlier_results = [fingerprint_of(result) for result in state.results] if state.step.reads_earlier_rows else []
        rest = (state.fingerprint, self.options.chunk_size, state.rows_in, earlier_results)
        return str(Hasher.hash((fingerprint, *rest)))

    def _input_key(self, dataset: Dataset) -> str:
        """Return a dataset's fingerprint if a step of this run returned it, else a hash of its content."""
        fingerprint = fingerprint_of(dataset)
        is_output = fingerprint in self._earlier_fingerprints
        return fingerprint if is_output else content_key(dataset, self.options.chunk_size)

    def _folder(self, step: Step, key: str, num_rows: int) -> StepFolder:
        path = self.options.run_dir / f"{step.folder_name}-{key}"
        return StepFolder(path, -(-num_rows // self.options.chunk_size), self.group.worker_id)

    def _existing(self, step: Step, key: str, num_rows: int) -> list[StepFolder]:
        """Return the existing folders of a step for one key, latest first."""
        newest, others = self._folder(step, key, num_rows).newest()
        return [newest, *others] if newest.path.exists() else others

    def _retries(self, step: Step, key: str) -> list[int]:
        """Return the numbers of retries that a key's folders may have, highest first."""
        last = max((folder.retries for folder in self._existing(step, key, 0)), default=0)
        return list(reversed(range(last + 1)))

    def _later_steps(self, state: _StepState) -> list[Technique]:
        """Return the later techniques that use the same llm as a step."""
        later = [other.step for other in self.steps[self.steps.index(state) + 1 :]]
        llm = state.step.llm if isinstance(state.step, Technique) else None
        return [step for step in later if isinstance(step, Technique) and step.llm == llm]

    def _swap_model(self, llm: LLM | None) -> None:
        """Unload the previous technique's llm unless it is this one; None for a step with a model of its own."""
        if self._llm is not None and self._llm != llm:
            self._llm.unload()
        self._llm = llm


def _fingerprint(key: str, retries: int) -> str:
    """Return the fingerprint of a step's rows after this many runs have retried failed rows."""
    return str(Hasher.hash((key, retries))) if retries else key


def _check_types(step: Step, earlier: Sequence[Dataset], result: Dataset) -> None:
    """Check that a function returns the same columns in every round.

    Raises:
        ColumnError: If a column's type differs.
    """
    for first in earlier[:1]:
        try:  # with one row of each: datasets does not compare the types of datasets without rows
            concatenate_datasets([first.select(range(min(1, len(first)))), result.select(range(min(1, len(result))))])
        except ValueError as error:
            raise ColumnError(
                f"{step.name} made columns of other types in an earlier round: {error}. Set `features` in its "
                "map, or cast, so that the types are the same in every round."
            ) from error


def _check_shared(run_dir: Path, group: ProcessGroup) -> None:
    """Create the run directory, and check that all nodes have the same one.

    Raises:
        RunError: If the directory can't be created, or process 0 writes to another one.
    """
    token = run_dir / f".run-{group.run_id}"
    with DiskErrors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK):
            raise PermissionError(errno.EACCES, f"{run_dir} is read-only")
        if group.is_main:
            _remove_abandoned(run_dir)
            token.touch()
    if not wait_until(token.exists, _SHARED_FOLDER_TIMEOUT):
        raise RunError(
            f"The run directory {run_dir} on {socket.gethostname()} is not the one that process 0 writes to. "
            "Set run_dir to a folder that all nodes share."
        )
    if group.add("token-found", 1) >= group.world_size:
        token.unlink(missing_ok=True)


def _remove_abandoned(run_dir: Path) -> None:
    """Remove temporary files of killed runs; recent ones are kept, since they may belong to a starting run."""
    for leftover in (*run_dir.glob(".run-*"), *run_dir.glob(".failures-*")):
        with suppress(FileNotFoundError):  # another run was first
            if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER:
                leftover.unlink()


@dataclass
class _Failures:
    """The failures of a run so far, and the file for them."""

    file: Path
    group: ProcessGroup
    split: str = ""
    """The split of a `DatasetDict` that is run; "" for a dataset."""
    parts: list[Dataset] = field(default_factory=list)
    complete: bool = False
    """Whether all steps have added their failures."""
    has_transient: bool = False
    """Whether some failures are transient, so that the next run retries their rows."""

    def add(self, failures: Dataset) -> int:
        """Add a step's failures, and return their number."""
        self.parts.append(failures)
        return len(failures)

    def run(self, worker: StepWorker) -> None:
        """Run a step; if it raises `RunError`, add the rows that failed so far."""
        try:
            worker.run()
        except RunError:
            self.parts.append(worker.failures_so_far())
            raise

    def dataset(self) -> Dataset:
        """Return all failures."""
        return concatenate_datasets(self.parts) if self.parts else failures_dataset([])

    def write(self) -> None:
        """Write the file atomically, in one process, and log the most frequent reasons.

        No file is written if there are no failures.
        """
        if not self.parts or not (self.group.is_main or not self.group.has_store):
            return
        failures = self.dataset()
        # an interrupted run does not replace the complete file of an earlier run
        replaces = self.complete or not self.file.exists()
        with DiskErrors(self.file.parent), without_bars():
            if len(failures) and replaces:
                writing = self.file.with_name(f".failures-{self.group.worker_id}")
                failures.to_parquet(writing)
                writing.replace(self.file)
            elif replaces:
                self.file.unlink(missing_ok=True)
        if len(failures):
            self._log(failures)

    def _log(self, failures: Dataset) -> None:
        reasons = Counter(zip(failures["step"], failures["reason"], strict=True))
        lines = reason_lines({f"{step}: {reason}": rows for (step, reason), rows in reasons.items()})
        if self.has_transient:
            lines.append("the same command retries rows that failed because of a server, memory or a device")
        listed = "".join(f"\n  {line}" for line in lines)
        lost = len(dropped_rows(failures))
        parts = f", and {len(failures) - lost} responses of kept rows" if lost < len(failures) else ""
        rows = f"{lost} rows of split {self.split}" if self.split else f"{lost} rows"
        logger.warning("%s failed or were dropped%s; see %s%s", rows, parts, self.file, listed)
