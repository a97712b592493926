import gguf
import pytest
from huggingface_hub import constants

from hfsynth.llm import Origin
from hfsynth.llms.model_files import model_origin
from tests.conftest import GGUF

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_tells_what_its_card_says(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n- fr\n---\n# x")
    assert model_origin(str(tmp_path), None, None) == Origin(license="mit", languages=("en", "fr"))


@pytest.mark.parametrize("text", ["# no metadata", "---\nlicense: [\n---\n", "---\nlicense: {a: 1}\n---\n", ""])
def test_a_card_that_states_nothing_is_believed(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert model_origin(str(tmp_path), None, None) == Origin()


def test_a_model_in_the_cache_has_a_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--user--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    assert model_origin("user/model", None, None) == Origin(COMMIT)
    assert model_origin("user/other", None, None) == Origin()


@pytest.mark.model
def test_a_gguf_file_tells_of_itself(smollm_folder):
    assert model_origin(smollm_folder, None, GGUF) == Origin(license="apache-2.0", languages=("en",))


@pytest.mark.model
def test_a_gguf_file_is_read_once(smollm_folder, monkeypatch):
    origin = model_origin(smollm_folder, None, GGUF)
    monkeypatch.setattr(gguf, "GGUFReader", None)
    assert model_origin(smollm_folder, None, GGUF) == origin
