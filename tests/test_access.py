import pytest
from datasets import Dataset

from hfsynth import EchoLLM, Pipeline, PushError, TextGeneration
from hfsynth.publish.hub import check_push_target
from tests.hub_server import Repository, Stored, new_oid


def test_a_target_that_may_be_pushed_to_passes_whether_it_is_there_or_not(hub):
    hub.repositories["datasets", "user/there"] = Repository()
    for name in ("user/there", "user/new", "club/new"):
        check_push_target(name)


@pytest.mark.parametrize(
    ("name", "said"), [("made", "use 'user/made'"), ("user/a b", "is no name"), ("", "is no name")]
)
def test_a_name_that_is_none_is_an_error_that_says_what_would_do(hub, name, said):
    with pytest.raises(PushError, match=said):
        check_push_target(name)
    assert hub.log == []


def test_without_a_token_the_error_says_how_to_log_in(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushError, match="run `hf auth login`, or set HF_TOKEN"):
        check_push_target("user/made")


def test_a_token_that_can_only_read_is_an_error(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(PushError, match="the token 'read' of 'user' can only read"):
        check_push_target("user/made")


@pytest.mark.parametrize(("permissions", "refused"), [(["repo.content.read"], True), (["repo.write"], False)])
def test_a_fine_grained_token_must_be_able_to_write(hub, monkeypatch, permissions, refused):
    scopes = {"scoped": [{"entity": {"name": "user"}, "permissions": permissions}]}
    account = {"name": "user", "auth": {"accessToken": {"role": "fineGrained", "fineGrained": scopes}}}
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda api: account)
    if refused:
        with pytest.raises(PushError, match="can only read"):
            check_push_target("user/made")
    else:
        check_push_target("User/made")


def test_a_wrong_token_is_an_error_that_says_what_to_do(hub):
    with pytest.raises(PushError, match=r"\(401\): it is wrong, has expired, or lacks the right"):
        check_push_target("user/made", token="hf_wrong")


def test_a_namespace_of_somebody_else_is_an_error_that_lists_ones_own(hub):
    with pytest.raises(PushError, match=r"'them' isn't yours to write to; as 'user' you have \['user', 'club'\]"):
        check_push_target("them/made")


def test_a_card_there_that_can_not_be_read_is_an_error(hub):
    card = b"---\na: [\n---\n"
    hub.repositories["datasets", "user/made"] = Repository(
        commits=[(new_oid(), "m", {"README.md": Stored(card, len(card))})]
    )
    with pytest.raises(PushError, match=r"is not YAML.*Mend it there first"):
        check_push_target("user/made")


def test_a_configuration_that_is_somebody_elses_is_an_error_where_its_name_is_known(hub):
    hub.repositories["datasets", "user/made"] = Repository(
        commits=[(new_oid(), "m", {"one/train.csv": Stored(b"a", 1), "README.md": Stored(b"# x", 3)})]
    )
    check_push_target("user/made")
    with pytest.raises(PushError, match="files in one/ that are not hfsynth's"):
        check_push_target("user/made", config_name="one")


def test_a_run_that_is_to_be_pushed_is_refused_before_anything_is_generated(hub, monkeypatch, tmp_path):
    pipeline = Pipeline((TextGeneration(EchoLLM()),))
    rows = Dataset.from_dict({"instruction": ["a"]})
    with pytest.raises(PushError, match="isn't yours"):
        pipeline.run(rows, run_dir=tmp_path / "run", push_target="them/made", quiet=True)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RANK", "1")
    hub.watch()
    pipeline.run(rows, run_dir=tmp_path / "run", push_target="them/made", quiet=True)
    assert hub.log == [], "process 0 asks, for all"
