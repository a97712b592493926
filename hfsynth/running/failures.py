"""The rows of a run that came to nothing, and the file that tells of them: what failed, and what filters dropped."""

import logging
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from hfsynth.errors import RunError
from hfsynth.record import chunk_failures
from hfsynth.running.crew import Crew
from hfsynth.running.progress import without_bars
from hfsynth.running.runner import DiskErrors, StepRun

logger = logging.getLogger(__name__)


@dataclass
class Failures:
    """The failures of a run so far, and the file that they go to."""

    file: Path
    crew: Crew
    parts: list[Dataset]
    complete: bool = False
    """Whether all steps have told theirs."""

    def add(self, failures: Dataset) -> int:
        """Add a step's, and return how many they are."""
        self.parts.append(failures)
        return len(failures)

    def work(self, run: StepRun) -> None:
        """Run a step; of the chunks it gives up, each row is a failure."""
        try:
            run.work()
        except RunError:
            column = next(iter(run.technique.written_features))
            for chunk in run.folder.failures():
                rows = range(run.first + chunk.first, run.first + chunk.last + 1)
                self.parts.append(chunk_failures(run.technique.name, column, rows, chunk.error))
            raise

    def write(self) -> None:
        """Write them, whole or not at all, once for all processes; where there are none, there is no file."""
        if not self.parts or not (self.crew.is_main or self.crew.on_its_own):
            return
        if not self.complete and self.file.exists():
            return  # an earlier run of the same told at least as many
        failures = concatenate_datasets(self.parts)
        with DiskErrors(self.file.parent), without_bars():
            if len(failures):
                writing = self.file.with_name(f".failures-{self.crew.member}")
                failures.to_parquet(writing)
                writing.replace(self.file)
                logger.warning("%d rows failed or were dropped; %s says which and why", len(failures), self.file)
            else:
                self.file.unlink(missing_ok=True)
