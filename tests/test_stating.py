import time

import pytest
from datasets import Dataset
from huggingface_hub import HfApi

from hfsynth import Magpie, Pipeline
from hfsynth.publish.card_data import look_up
from hfsynth.publish.files import write_config
from tests.helpers import NamedLLM
from tests.hub_server import Repository


def looked_up(tmp_path, **fields):
    made = Pipeline((Magpie(NamedLLM(**fields)),)).run(Dataset.from_dict({"id": [1]}), quiet=True)
    return look_up(HfApi(), write_config(tmp_path, made, "default", ()))


def test_the_card_of_a_model_on_the_hub_is_asked_for(hub, tmp_path):
    hub.repositories["models", "user/model"] = Repository(card={"license": "mit", "language": ["en", "de"]})
    assert looked_up(tmp_path, model="user/model") == {"user/model": {"licence": "mit", "languages": ("en", "de")}}


def test_what_is_known_already_or_lies_in_a_folder_is_not_asked_for(hub, tmp_path):
    assert looked_up(tmp_path, model="user/model", licence="mit") == {}
    assert looked_up(tmp_path, model="folder") == {}
    assert hub.log == []


@pytest.mark.parametrize("fault", [403, 503])
def test_what_can_not_be_asked_for_is_left_out_and_said(hub, tmp_path, caplog, fault, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.watch(dict.fromkeys(range(1000), fault))
    assert looked_up(tmp_path, model="user/model") == {}
    assert "the licence of user/model is not known" in caplog.text


def test_a_model_without_a_card_states_nothing(hub, tmp_path):
    hub.repositories["models", "user/model"] = Repository()
    assert looked_up(tmp_path, model="user/model") == {"user/model": {"licence": "", "languages": ()}}
