"""One step over a whole dataset: chunks that are computed once, kept in a run directory, and put together at the end.

A chunk is a run of consecutive rows, mapped into a file of its own. The file appears whole or not at all, so a run
that was killed goes on where it was: chunks whose files exist are done. A step's folder is named by a hash of its
input, its configuration and its chunking, so another pipeline or input never finds another's chunks.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets, config
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm

from hfsynth.batches import Batch, Columns
from hfsynth.technique import Technique

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """How a pipeline is run; no part of what a row becomes, but for the batch size."""

    run_dir: Path
    batch_size: int
    """Rows that a technique is given at once."""
    chunk_size: int
    """Rows that are computed, saved and lost together; a multiple of the batch size."""
    quiet: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        """Check that batches don't cross the borders of chunks."""
        if self.batch_size < 1 or self.chunk_size < 1 or self.chunk_size % self.batch_size:
            raise ValueError(
                f"chunk_size is {self.chunk_size} and batch_size {self.batch_size}; the first must be a multiple of "
                "the second, or rows would depend on the chunks."
            )


@dataclass(frozen=True)
class _FromIndex:
    """A technique on a chunk: the chunk's first row has the index `first` in the step's input."""

    technique: Technique
    first: int

    def __call__(self, batch: Batch, indices: Sequence[int]) -> Columns | pa.Table:
        return self.technique(batch, [self.first + index for index in indices])


def default_run_dir() -> Path:
    """Return where runs are kept that were given no directory: in the cache of datasets."""
    return Path(config.HF_DATASETS_CACHE) / "hfsynth"


def run_step(dataset: Dataset, technique: Technique, features: Features, options: RunOptions) -> Dataset:
    """Run a technique over a dataset, chunk by chunk, computing only what is missing.

    Args:
        dataset: The step's input.
        technique: The step.
        features: What its output has.
        options: Where and how.

    Returns:
        The output, memory-mapped from the chunks, with a fingerprint that is the same in every process.
    """
    key = Hasher.hash((dataset._fingerprint, technique, options.batch_size, options.chunk_size))
    folder = options.run_dir / f"{technique.name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = list(_chunks(len(dataset), options.chunk_size))
    bar = tqdm(total=len(dataset), desc=technique.name, unit="row", disable=options.quiet)
    for number, rows in enumerate(chunks):
        file = folder / f"chunk-{number:05d}-of-{len(chunks):05d}.arrow"
        if not file.exists():
            _compute(dataset.select(rows), _FromIndex(technique, rows.start), features, options.batch_size, file)
        bar.update(len(rows))
    bar.close()
    files = sorted(folder.glob("chunk-*.arrow"))
    made = [Dataset.from_file(str(file)) for file in files]
    whole = (
        concatenate_datasets(made) if made else Dataset.from_dict({name: [] for name in features}, features=features)
    )
    whole._fingerprint = key
    return whole


def _chunks(num_rows: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def _compute(rows: Dataset, function: _FromIndex, features: Features, batch_size: int, file: Path) -> None:
    """Map a chunk into its file. It is written under another name and renamed, so that it is whole or not there."""
    writing = file.parent / f"writing-{file.stem}"
    shutil.rmtree(writing, ignore_errors=True)
    mapped = rows.map(
        function,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        features=features,
        cache_file_name=str(writing / file.name),
        new_fingerprint="chunk",
    )
    del mapped
    (writing / file.name).replace(file)
    writing.rmdir()
