"""The rows of a run that came to nothing, and the file that tells of them: what failed, and what filters dropped."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from hfsynth.errors import RunError
from hfsynth.running.crew import Crew
from hfsynth.running.progress import without_bars
from hfsynth.running.reasons import reason_lines
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
