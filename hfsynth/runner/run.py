"""The rows of a run that came to nothing, and the file that tells of them: what failed, and what filters dropped."""

import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Dataset, concatenate_datasets, config
from datasets.fingerprint import Hasher

from hfsynth.config import Configuration
from hfsynth.distributed import Crew, wait_until
from hfsynth.errors import ColumnError, RunError
from hfsynth.llm import LLM
from hfsynth.metadata import METADATA_COLUMN, split_failures, step_failures
from hfsynth.pipeline import Pipeline
from hfsynth.progress import Progress, without_bars
from hfsynth.run_record import RunRecord, Source, StepRecord, attach_record
from hfsynth.runner.chunks import EarlierRows, StepFolder, chunk_keys, content_key, fingerprint_of
from hfsynth.runner.rounds import Goal, RowSource, Spent, source_of
from hfsynth.runner.step import DiskErrors, StepRun, reason_lines, run_whole
from hfsynth.step import DatasetStep, Step
from hfsynth.technique import Technique

logger = logging.getLogger(__name__)


@dataclass
class Failures:
    """The failures of a run so far, and the file that they go to."""

    file: Path
    crew: Crew
    parts: list[Dataset]
    complete: bool = False
    """Whether all steps have told theirs."""
    has_passing: bool = False
    """Whether some failed for the time being."""

    def add(self, failures: Dataset) -> int:
        """Add a step's, and return how many they are."""
        self.parts.append(failures)
        return len(failures)

    def work(self, run: StepRun) -> None:
        """Run a step; where it can't be finished, add the rows that failed until then."""
        try:
            run.work()
        except RunError:
            self.parts.append(run.failures_so_far())
            raise

    def write(self) -> None:
        """Write them, whole or not at all, once for all processes, and log the commonest reasons.

        Where there are none, there is no file.
        """
        if not self.parts or not (self.crew.is_main or self.crew.on_its_own):
            return
        failures = concatenate_datasets(self.parts)
        is_kept = self.complete or not self.file.exists()  # else an earlier run of the same had at least as many
        with DiskErrors(self.file.parent), without_bars():
            if len(failures) and is_kept:
                writing = self.file.with_name(f".failures-{self.crew.member}")
                failures.to_parquet(writing)
                writing.replace(self.file)
            elif is_kept:
                self.file.unlink(missing_ok=True)
        if len(failures):
            self._log(failures)

    def _log(self, failures: Dataset) -> None:
        """Log how many rows failed for which reasons."""
        reasons = Counter(zip(failures["step"], failures["reason"], strict=True))
        lines = reason_lines({f"{step}: {reason}": rows for (step, reason), rows in reasons.items()})
        if self.has_passing:
            lines.append("rows that failed for the time being are tried again where the same command is run again")
        listed = "".join(f"\n  {line}" for line in lines)
        logger.warning("%d rows failed or were dropped; %s says which and why%s", len(failures), self.file, listed)


_SHARED_WAIT = 60.0  # seconds in which a shared folder must show what another node wrote
_LEFT_OVER = 3600.0  # seconds after which a run's own small files can only be a killed run's


@dataclass(frozen=True)
class RunOptions:
    """How a pipeline is run."""

    run_dir: Path
    chunk_size: int
    """Rows that are computed, saved and lost together."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        """Check the chunks' size."""
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size is {self.chunk_size}; it must be at least 1.")


def default_run_dir() -> Path:
    """Return where runs are kept that were given no directory: in the cache of datasets."""
    return Path(config.HF_DATASETS_CACHE) / "hfsynth"


@dataclass
class _Stage:
    """A step, and how far the run has come with it."""

    step: Step
    key: str
    """The step's hash as the run began: user code may change objects of its own while it runs."""
    given: int = 0
    """Rows that it was given so far."""
    made: list[Dataset] = field(default_factory=list)
    """What it made of them, round by round."""
    record: StepRecord | None = None


@dataclass(frozen=True)
class Run:
    """One process's part in a pipeline's run."""

    steps: tuple[Step, ...]
    options: RunOptions

    def over(self, dataset: Dataset) -> Dataset:
        """Run all steps over a dataset; every process returns the same rows.

        Raises:
            ColumnError: If a step's columns don't fit what a function before it made.
            GenerationError: If an llm can't be loaded.
            RunError: If chunks failed twice, or the run directory can't be written or isn't shared by all nodes.
        """
        with self._part([content_key(dataset, self.options.chunk_size)]) as part:
            made = part.round(dataset)
        self._attach(part, made, dataset, RunRecord(Source.of(dataset), (), self.options.chunk_size))
        return made

    def until(self, source: RowSource, goal: Goal) -> Dataset:
        """Run all steps over as much of the input as it takes, round by round, and return the accepted rows.

        Raises:
            ColumnError, GenerationError, RunError: As `over` does.
        """
        chunk_size, spent, accepted, first = self.options.chunk_size, Spent(), list[Dataset](), source.rows(0, 0, ())
        with self._part([source.fingerprint, goal]) as part:
            while count := spent.next_round(goal, source, chunk_size):
                given = source.rows(spent.tried, count, accepted)
                first = first if spent.tried else given
                made = part.round(given, among_others=True)
                if len(made):
                    accepted.append(split_failures(made)[0] if METADATA_COLUMN in made.column_names else made)
                spent = Spent(spent.tried + count, sum(map(len, accepted)), part.tokens)
                logger.info(spent.told(goal))
            if not accepted:  # there is no row, but there are columns
                accepted.append(part.round(source.rows(0, 0, ())))
        if spent.accepted < goal.num_rows:
            logger.warning(spent.told(goal))
        made = concatenate_datasets(accepted)
        made = made.select(range(min(goal.num_rows, len(made))))
        described = source.describe() if isinstance(source, Configuration) else {}
        read = replace(Source.of(first), rows=spent.tried, recipe=described)
        self._attach(
            part, made, first, RunRecord(read, (), chunk_size, "", goal.num_rows, spent.accepted, goal.limits)
        )
        return made

    @contextmanager
    def _part(self, keys: Sequence[object]) -> Iterator["_Part"]:
        """Begin to run, and see that the failures are written however it ends."""
        crew = Crew.here()
        _check_shared(self.options.run_dir, crew)
        stages = [_Stage(step, step.fingerprint()) for step in self.steps]
        named = Hasher.hash([*keys, *(stage.key for stage in stages), self.options.chunk_size])
        failures = Failures(self.options.run_dir / f"failures-{named}.parquet", crew, [])
        try:
            with Progress(crew, len(self.steps), self.options.quiet) as progress:
                yield _Part(stages, self.options, failures, progress)
            failures.complete = True
        except KeyboardInterrupt:
            if crew.is_main:
                logger.warning(
                    "stopped: %s keeps what was finished; the same command goes on where it is run again",
                    self.options.run_dir,
                )
            raise
        finally:
            failures.write()

    def _attach(self, part: "_Part", made: Dataset, before: Dataset, record: RunRecord) -> None:
        """Write the run's record into what it made."""
        steps = tuple(stage.record for stage in part.stages if stage.record is not None)
        kept = str(part.failures.file) if part.failures.file.exists() else ""
        if steps:
            attach_record(made, before, replace(record, steps=steps, failures_file=kept))


def run_pipeline(
    pipeline: Pipeline,
    dataset: Dataset | RowSource | None,
    *,
    num_rows: int | None,
    max_rows: int | None,
    max_tokens: int | None,
    run_dir: str | Path | None,
    chunk_size: int,
    quiet: bool,
) -> Dataset:
    """Run a pipeline over a dataset, as `Pipeline.run` documents."""
    goal = Goal.of(num_rows, max_rows, max_tokens)
    source = source_of(dataset, num_rows)
    pipeline.check(source.rows(0, 0, ()).features)
    folder = Path(run_dir) if run_dir is not None else default_run_dir()
    run = Run(pipeline.steps, RunOptions(folder, chunk_size, quiet))
    if goal is not None:
        return run.until(source, goal)
    return run.over(source.rows(0, source.num_rows or 0, ()))


@dataclass
class _Part:
    """One process's part in a run: its steps, round by round."""

    stages: list[_Stage]
    options: RunOptions
    failures: Failures
    progress: Progress
    rounds: int = 0
    _llm: LLM | None = None
    _fingerprints_before: dict[str, list[str]] = field(default_factory=dict)
    """Fingerprint of a dataset → those that earlier runs gave it, before rows that had failed were made again."""

    @property
    def tokens(self) -> int:
        """Tokens read and written so far."""
        records = [stage.record for stage in self.stages if stage.record is not None]
        return sum(record.prompt_tokens + record.completion_tokens for record in records)

    def round(self, dataset: Dataset, among_others: bool = False) -> Dataset:
        """Take some rows through all steps.

        Args:
            dataset: The rows.
            among_others: Whether there are other rounds, which have rows: then one is over as soon as it has none
                left. A function of the user's may make no columns of no rows.
        """
        self.rounds += 1
        for number, stage in enumerate(self.stages, 1):
            if among_others and not len(dataset):
                break
            self.progress.begin(number, stage.step.name, len(dataset))
            made, record = self._step(number, stage, dataset)
            stage.record = record if stage.record is None else stage.record.plus(record)
            stage.given += len(dataset)
            stage.made.append(made)
            dataset = made
        return dataset

    def _step(self, number: int, stage: _Stage, dataset: Dataset) -> tuple[Dataset, StepRecord]:
        step, options, crew = stage.step, self.options, self.failures.crew
        key, keys_before = self._keys(stage, dataset)
        if not crew.agrees(f"round-{self.rounds}-step-{number}", key):
            raise RunError(
                f"process {crew.rank} has another input or pipeline at step {number}, {step.name}, than the "
                "others; give all processes the same dataset (no random or process-dependent rows) and the same steps."
            )
        folder, superseded = self._folder(step, key, len(dataset)).newest()
        of_other_input = [found for before in keys_before for found in self._existing(step, before, len(dataset))]
        fingerprint = _fingerprint(key, folder.retries)
        self._fingerprints_before[fingerprint] = [
            *(_fingerprint(key, retry) for retry in reversed(range(folder.retries))),
            *(_fingerprint(before, retry) for before in keys_before for retry in self._retries(step, before)),
        ]
        features = step.features_after(dataset.features, number)
        if isinstance(step, Technique) and features is not None and not (superseded or of_other_input):
            keys = chunk_keys(dataset, options.chunk_size, stage.given, stage.key)
            folder = replace(folder, keys=keys)
        found = folder.finished
        if isinstance(step, Technique) and features is not None:
            earlier = [EarlierRows(one, step, same_input=True) for one in superseded]
            earlier += [EarlierRows(one, step, same_input=False) for one in of_other_input]
            if not found:
                self._take_over(step.llm)
                run = StepRun(
                    dataset, step, features, options.chunk_size, folder, crew, self.progress, stage.given, earlier
                )
                self.failures.work(run)
            made = folder.load(features, fingerprint)
            failed = self.failures.add(step_failures(made))
            self.failures.has_passing |= folder.left_passing_failures
        elif isinstance(step, DatasetStep):
            if not found:
                run_whole(step, dataset, folder, crew, (stage.made, stage.given))
            made, failed, found = folder.load(features, fingerprint), 0, True
            _check_types(step, stage.made, made)
            self.failures.add(folder.dropped())
        if crew.is_main:
            self._tidy(folder, (*superseded, *of_other_input), (len(dataset), failed) if found else None)
        return made, StepRecord.from_json(folder.facts())

    def _tidy(self, folder: StepFolder, superseded: Sequence[StepFolder], found: tuple[int, int] | None) -> None:
        """Remove what a finished step has no more use for; count its rows and failures where they were found."""
        for before in superseded:
            before.remove_superseded()
        if found is not None:
            folder.tidy()  # a process may have been killed between the last file and this
            self.progress.add(found[0], failed=found[1], found=True)

    def _keys(self, stage: _Stage, dataset: Dataset) -> tuple[str, list[str]]:
        """Return what tells a step's rows from any others, and that of earlier runs of the same, the latest first."""
        before = [fingerprint_of(made) for made in stage.made] if stage.step.reads_earlier_rows else []
        rest = (stage.key, self.options.chunk_size, stage.given, before)
        inputs = [self._input_key(dataset), *self._fingerprints_before.get(fingerprint_of(dataset), ())]
        key, *keys_before = [Hasher.hash((fingerprint, *rest)) for fingerprint in inputs]
        return key, keys_before

    def _input_key(self, dataset: Dataset) -> str:
        """Return what tells rows from others: of a step's output its own key, else a hash of the content."""
        fingerprint = fingerprint_of(dataset)
        is_output = fingerprint in self._fingerprints_before
        return fingerprint if is_output else content_key(dataset, self.options.chunk_size)

    def _folder(self, step: Step, key: str, num_rows: int) -> StepFolder:
        path = self.options.run_dir / f"{step.folder_name}-{key}"
        return StepFolder(path, -(-num_rows // self.options.chunk_size), self.failures.crew.member)

    def _existing(self, step: Step, key: str, num_rows: int) -> list[StepFolder]:
        """Return the folders that there are of a step's rows by one key, the latest first."""
        newest, others = self._folder(step, key, num_rows).newest()
        return [newest, *others] if newest.path.exists() else others

    def _retries(self, step: Step, key: str) -> list[int]:
        """Return the numbers that retries of a step's rows by one key may have had, from the last down."""
        last = max((folder.retries for folder in self._existing(step, key, 0)), default=0)
        return list(reversed(range(last + 1)))

    def _take_over(self, llm: LLM) -> None:
        """Unload the llm of the technique before, if this is another: two are never in memory at once."""
        if self._llm is not None and self._llm != llm:
            self._llm.unload()
        self._llm = llm


def _fingerprint(key: str, retries: int) -> str:
    """Return the fingerprint of a step's rows, of which some were made again in so many later runs."""
    return str(Hasher.hash((key, retries))) if retries else key


def _check_types(step: Step, before: Sequence[Dataset], made: Dataset) -> None:
    """Check that a function makes the same columns in every round.

    Raises:
        ColumnError: If it doesn't.
    """
    for earlier in before[:1]:
        try:  # of datasets without rows the types would not be compared
            concatenate_datasets([earlier.select(range(min(1, len(earlier)))), made.select(range(min(1, len(made))))])
        except ValueError as error:
            raise ColumnError(
                f"{step.name} made columns of other types in an earlier round: {error}. Give them the same ones "
                "in every round, with `features` in its map, or cast."
            ) from error


def _check_shared(run_dir: Path, crew: Crew) -> None:
    """Make the run directory and see that all nodes have the same one.

    Raises:
        RunError: If it can't be made, or another node's process 0 doesn't write into it.
    """
    token = run_dir / f".run-{crew.token}"
    with DiskErrors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK):
            raise PermissionError(errno.EACCES, f"{run_dir} is read-only")
        if crew.is_main:
            _sweep(run_dir)
            token.touch()
    if not wait_until(token.exists, _SHARED_WAIT):
        raise RunError(
            f"{run_dir} on {socket.gethostname()} is not the folder that process 0 writes to; "
            "give a run_dir that all nodes share."
        )
    if crew.add("seen-token", 1) >= crew.size:
        token.unlink(missing_ok=True)


def _sweep(run_dir: Path) -> None:
    """Remove what killed runs left in the directory itself; what is younger may be another run's that is starting."""
    for leftover in (*run_dir.glob(".run-*"), *run_dir.glob(".failures-*")):
        with suppress(FileNotFoundError):  # another run was first
            if time.time() - leftover.stat().st_mtime > _LEFT_OVER:
                leftover.unlink()
