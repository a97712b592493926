"""Calls of a Hub on loopback, through the unmodified clients of datasets and the Hub."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import httpx2
import pytest
import yaml
from datasets import Dataset, DatasetDict, load_dataset
from httpx2 import Timeout
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hfsynth import EchoLLM, Magpie, PersonaSampler, Pipeline, PushError, TextGeneration, push_to_hub, save
from hfsynth.data import load_rows
from hfsynth.llm import Origin
from hfsynth.publish import files
from hfsynth.publish import hub as hub_module
from hfsynth.publish.files import write_config
from hfsynth.publish.hub import (
    check_push_target,
    fetch_origins,
    is_transient,
    load_failures,
    load_runs,
    status_of,
    with_retries,
)
from tests.helpers import NamedLLM
from tests.hub_server import Repository, Stored, new_oid

pytestmark = pytest.mark.usefixtures("cached_pictures")
ANSWER = Pipeline((TextGeneration(EchoLLM()),))
NAME = "user/data"


@pytest.fixture(params=["xet", "lfs"])
def path(request, monkeypatch):
    """The two protocols that the client uploads large files by."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


@pytest.fixture
def no_waiting(monkeypatch):
    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pause(min(seconds, 0.001)))


def answered(*instructions):
    return ANSWER.run(Dataset.from_dict({"instruction": list(instructions)}), quiet=True)


def loaded(tmp_path, *config, name=NAME, **options):
    folder = tmp_path / f"cache-{len(list(tmp_path.iterdir()))}"
    return load_dataset(name, *config, cache_dir=str(folder), **options)


def card(hub, name=NAME):
    _, head, text = hub.read(name, "README.md").decode().split("---\n", 2)
    return yaml.safe_load(head), text


def test_push_rows_and_failures_load_with_their_types(hub, path, tmp_path):
    rows = Pipeline((Magpie(EchoLLM(), n_turns=2),)).run(Dataset.from_dict({"id": [0, 1]}), quiet=True)
    push_to_hub(rows, NAME, config_name="magpie")
    push_to_hub(answered("a", None, "b"), NAME, config_name="answers")
    magpie = loaded(tmp_path, "magpie", split="train")
    assert (magpie.to_list(), magpie.features) == (rows.to_list(), rows.features)
    assert loaded(tmp_path, "answers", split="train")["generation"][:] == ["a", "b"]
    failures = load_dataset(
        "parquet", data_files=f"hf://datasets/{NAME}/answers/failures/train.parquet", cache_dir=str(tmp_path / "c")
    )
    assert failures["train"]["reason"][:] == ["instruction is None"]


def test_push_is_one_commit_with_all_files(hub, path, tmp_path):
    url = push_to_hub(answered("a", None), NAME)
    _, second = hub.dataset(NAME).commits
    assert url.endswith(second[0])
    assert sorted(second[2]) == [
        "README.md",
        "default/failures/train.parquet",
        "default/funnel.png",
        "default/hfsynth.json",
        "default/hfsynth.yaml",
        "default/lengths.png",
        "default/steps.png",
        "default/train-00000-of-00001.parquet",
    ]
    recipe = Pipeline.from_yaml(hub.read(NAME, "default/hfsynth.yaml").decode())
    assert [step.to_json() for step in recipe.steps] == [step.to_json() for step in ANSWER.steps]


def test_push_of_unchanged_dataset_makes_no_commit(hub, path):
    rows = answered("a")
    first = push_to_hub(rows, NAME)
    assert push_to_hub(rows, NAME) == first
    assert len(hub.dataset(NAME).commits) == 2


def test_push_fewer_shards_deletes_the_stale_ones(hub, path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files, "_BYTES_PER_SHARD", 10)
        push_to_hub(answered(*map(str, range(120))), NAME)
    shards = [path for path in hub.dataset(NAME).files if path.endswith(".parquet")]
    assert (len(shards), len(hub.dataset(NAME).commits)) == (120, 2)
    assert loaded(tmp_path, split="train")["generation"][:] == [str(n) for n in range(120)]
    push_to_hub(answered("x", "y"), NAME)
    assert loaded(tmp_path, split="train")["generation"][:] == ["x", "y"]
    assert len([path for path in hub.dataset(NAME).files if path.endswith(".parquet")]) == 1


def test_push_dataset_dict_loads_as_splits(hub, tmp_path):
    push_to_hub(DatasetDict(train=answered("a", "b"), test=answered("c", None)), NAME)
    both = loaded(tmp_path)
    assert {name: split["generation"][:] for name, split in both.items()} == {"train": ["a", "b"], "test": ["c"]}
    assert "default/failures/test.parquet" in hub.dataset(NAME).files


def test_push_keeps_other_configurations_and_users_text(hub, tmp_path):
    push_to_hub(answered("a"), NAME, config_name="one")
    repository = hub.dataset(NAME)
    metadata, text = card(hub)
    metadata |= {
        "license": "mit",
        "configs": [*metadata["configs"], {"config_name": "mine", "data_files": "mine.parquet"}],
    }
    readme = f"---\n{yaml.safe_dump(metadata)}---\n{text}\nMy own words.\n".encode()
    Dataset.from_dict({"a": [1], "b": [2]}).to_parquet(tmp_path / "mine.parquet")
    mine = (tmp_path / "mine.parquet").read_bytes()
    theirs = {"README.md": Stored(readme, len(readme)), "mine.parquet": Stored(mine, len(mine))}
    repository.commits.append((new_oid(), "mine", {**repository.files, **theirs}))
    push_to_hub(answered("b", "c"), NAME, config_name="two")
    assert hub.read(NAME, "mine.parquet") == mine
    metadata, text = card(hub)
    assert text.endswith("My own words.\n")
    assert metadata["license"] == "mit"
    assert [config["config_name"] for config in metadata["configs"]] == ["mine", "one", "two"]
    assert loaded(tmp_path, "one", split="train")["generation"][:] == ["a"]
    assert loaded(tmp_path, "mine", split="train").to_list() == [{"a": 1, "b": 2}]
    assert loaded(tmp_path, "two", split="train")["generation"][:] == ["b", "c"]


def test_push_over_foreign_folder_is_an_error(hub):
    push_to_hub(answered("a"), NAME, config_name="one")
    repository = hub.dataset(NAME)
    repository.commits.append((new_oid(), "mine", {**repository.files, "two/train.csv": Stored(b"a\n1\n", 4)}))
    with pytest.raises(PushError, match=r"two/train\.csv"):
        push_to_hub(answered("b"), NAME, config_name="two")


def test_push_keeps_users_files_in_the_folder(hub):
    push_to_hub(answered("a"), NAME)
    repository = hub.dataset(NAME)
    repository.commits.append((new_oid(), "mine", {**repository.files, "default/NOTES.md": Stored(b"mine", 4)}))
    push_to_hub(answered("b"), NAME)
    assert hub.read(NAME, "default/NOTES.md") == b"mine"


def test_push_over_rows_pushed_by_datasets_is_an_error(hub, tmp_path):
    rows = Dataset.from_dict({"a": [1, 2]})
    for name in ("default", "one"):
        hub.reset()
        rows.push_to_hub(NAME, name)
        with pytest.raises(PushError, match="config_name"):
            push_to_hub(answered("b"), NAME, config_name=name)
        assert loaded(tmp_path, name, split="train")["a"][:] == [1, 2]


def test_push_file_excluded_by_gitignore_is_an_error(hub, path):
    push_to_hub(answered("a"), NAME)
    repository = hub.dataset(NAME)
    repository.commits.append((new_oid(), "mine", {**repository.files, ".gitignore": Stored(b"*.parquet\n", 10)}))
    with pytest.raises(PushError, match=r"\.gitignore of user/data"):
        push_to_hub(answered("b"), NAME)
    assert len(repository.commits) == 3


def test_push_private_creates_a_private_dataset(hub):
    push_to_hub(answered("a"), NAME, private=True)
    push_to_hub(answered("a"), "club/open")
    assert hub.dataset(NAME).private
    assert not hub.dataset("club/open").private


def test_push_license_is_that_of_the_models_card(hub, tmp_path):
    hub.repositories["models", "user/model"] = Repository(card={"license": "apache-2.0", "language": "en"})
    empty = Dataset.from_dict({"id": [1]})
    rows = Pipeline((Magpie(NamedLLM(model="user/model")),)).run(empty, quiet=True)
    push_to_hub(rows, NAME)
    metadata, text = card(hub)
    assert (metadata["license"], metadata["language"]) == ("apache-2.0", ["en"])
    assert "| user/model | unknown | apache-2.0 |" in text
    rows = Pipeline((Magpie(NamedLLM(model="user/unknown")),)).run(empty, quiet=True)
    push_to_hub(rows, NAME)
    metadata, text = card(hub)
    assert "license" not in metadata
    assert "| user/unknown | unknown | unknown |" in text


def test_push_card_names_a_source_on_the_hub_and_commit(hub, tmp_path):
    push_to_hub(answered("a", "b"), "user/MySource")
    source = loaded(tmp_path, name="user/MySource", split="train").select_columns(["instruction"])
    push_to_hub(ANSWER.run(source, quiet=True), NAME)
    metadata, text = card(hub)
    commit = hub.dataset("user/MySource").commits[-1][0]
    assert metadata["source_datasets"] == ["user/MySource"]
    assert f"2 rows of user/MySource (default, train at {commit[:12]})" in text
    assert f"--dataset user/MySource --config default --split train --dataset-revision {commit}" in text


def test_push_states_license_and_commit_of_the_personas(hub):
    """The model's license alone would be wrong for rows that contain texts of another dataset."""
    hub.repositories["models", "user/model"] = Repository(card={"license": "apache-2.0"})
    push_to_hub(Dataset.from_dict({"persona": ["a nurse", "a baker"]}), "user/people")
    hub.dataset("user/people").card = {"license": "cc-by-nc-sa-4.0"}
    commit = hub.dataset("user/people").commits[-1][0]
    ask = TextGeneration(NamedLLM(model="user/model"), template="{{ persona }}")
    push_to_hub((PersonaSampler("user/people") >> ask).run(None, num_rows=3, quiet=True), NAME)
    metadata, text = card(hub)
    assert "license" not in metadata
    assert metadata["source_datasets"] == ["user/people"]
    assert f"| user/people | {commit} | cc-by-nc-sa-4.0 |" in text
    hub.dataset("user/people").card = {"license": "apache-2.0"}
    push_to_hub((PersonaSampler("user/people") >> ask).run(None, num_rows=4, quiet=True), NAME)
    assert card(hub)[0]["license"] == "apache-2.0"


def test_push_personas_of_a_file_leave_the_license_open(hub, tmp_path):
    hub.repositories["models", "user/model"] = Repository(card={"license": "apache-2.0"})
    (tmp_path / "people.csv").write_text("persona\na nurse\n")
    ask = TextGeneration(NamedLLM(model="user/model"), template="{{ persona }}")
    people = PersonaSampler(str(tmp_path / "people.csv"))
    push_to_hub((people >> ask).run(None, num_rows=2, quiet=True), NAME)
    metadata, text = card(hub)
    assert "license" not in metadata
    assert "| a csv file | unknown | unknown |" in text


class Pushing:
    """Pushes of new rows onto the same repository, each with a fault at one of its requests."""

    def __init__(self, hub):
        self.hub, self.rows = hub, answered("x", None)
        push_to_hub(answered("a", "b", "c"), NAME)
        self.before = hub.state()
        hub.watch()
        push_to_hub(self.rows, NAME)
        self.requests, self.pushed = len(hub.log), self.files()

    def files(self):
        return {path: one.oid for path, one in self.hub.dataset(NAME).files.items()}

    def push(self, number, fault):
        self.hub.reset(self.before, {number: fault})
        push_to_hub(self.rows, NAME)


FAULTS = {"xet": [409, 412, 429, 503, "before", "after"], "lfs": [503, "before", "after"]}


@pytest.mark.parametrize(
    ("path", "fault"), [(path, fault) for path, faults in FAULTS.items() for fault in faults], indirect=["path"]
)
def test_push_with_a_fault_at_any_request_is_one_commit(hub, path, no_waiting, fault):
    pushing = Pushing(hub)
    for number in range(pushing.requests):
        pushing.push(number, fault)
        assert pushing.files() == pushing.pushed
        assert len(hub.dataset(NAME).commits) == 3, f"{fault} at {hub.log[number]}"


def test_push_to_a_silent_hub_is_retried(hub, path, no_waiting, monkeypatch):
    monkeypatch.setattr(hub_module, "ANSWER_TIMEOUT", 0.5)
    pushing = Pushing(hub)
    commit = next(number for number, line in enumerate(hub.log) if "/commit/" in line)
    for number in (0, commit):
        pushing.push(number, "silence")
        assert pushing.files() == pushing.pushed
        assert len(hub.dataset(NAME).commits) == 3, f"silence at {hub.log[number]}"
    assert get_session().timeout == Timeout(None)  # as the client of the Hub has it for everybody else


@pytest.mark.parametrize(("path", "fault"), [("xet", 403), ("lfs", 400), ("lfs", 404)], indirect=["path"])
def test_push_refused_at_any_request_is_all_or_nothing(hub, path, no_waiting, fault):
    pushing = Pushing(hub)
    ends = set()
    for number in range(pushing.requests):
        try:
            pushing.push(number, fault)
        except PushError:
            ends.add("error")
            assert len(hub.dataset(NAME).commits) == 2, f"{fault} at {hub.log[number]}"
        else:
            ends.add("pushed")
            assert pushing.files() == pushing.pushed
    assert "error" in ends


def test_push_to_a_hub_that_is_down_is_an_error(hub, no_waiting):
    hub.watch(dict.fromkeys(range(1000), 503))
    with pytest.raises(PushError, match=r"8 times: .*503"):
        push_to_hub(answered("a"), NAME)


def test_push_keeps_a_concurrent_commit(hub, monkeypatch):
    push_to_hub(answered("a"), NAME)
    repository = hub.dataset(NAME)
    real = repository.at
    calls = []

    def at(revision):
        calls.append(revision)
        commit = real(revision)
        if calls.count("main") == 2:  # after the state was read, before the commit
            calls.append("main")
            repository.commits.append((new_oid(), "theirs", {**repository.files, "theirs.txt": Stored(b"x", 1)}))
        return commit

    repository.at = at
    push_to_hub(answered("b"), NAME)
    assert hub.read(NAME, "theirs.txt") == b"x"
    assert [title for _, title, _ in repository.commits][1:] == [
        "Write default: 1 row, with hfsynth",
        "theirs",
        "Write default: 1 row, with hfsynth",
    ]


def test_push_onto_an_invalid_card_uploads_nothing(hub):
    push_to_hub(answered("a"), NAME)
    repository = hub.dataset(NAME)
    readme = hub.read(NAME, "README.md").replace(b"---\n", b"---\nlicense: my-own\n", 1)
    repository.commits.append((new_oid(), "m", {**repository.files, "README.md": Stored(readme, len(readme))}))
    with pytest.raises(PushError, match=r"user/data: .*my-own"):
        push_to_hub(answered("b"), NAME)
    assert len(repository.commits) == 3


def test_push_with_a_refused_card_commits_nothing(hub):
    rows = Pipeline((Magpie(NamedLLM(model="m", license="my-own")),)).run(Dataset.from_dict({"id": [1]}), quiet=True)
    with pytest.raises(PushError, match=r"card of user/data: .*my-own"):
        push_to_hub(rows, NAME)
    assert len(hub.dataset(NAME).commits) == 1


def test_push_and_save_under_accelerate_write_once(hub, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    command = [*launch, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_TOKEN": "hf_write"}
    done = subprocess.run(
        [*command, "-m", "tests.launched_push", NAME, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert len(hub.dataset(NAME).commits) == 2
    assert [line for line in hub.log if line.endswith("/commit/main")] == [f"POST /api/datasets/{NAME}/commit/main"]


def test_push_private_fields_exist_in_the_client():
    """Setting a field that a later client renames would have no effect, and raise nothing."""
    assert {"_remote_oid", "_should_ignore"} <= {field.name for field in fields(CommitOperationAdd)}


def test_check_push_target_existing_or_new_passes(hub):
    hub.repositories["datasets", "user/there"] = Repository()
    for name in ("user/there", "user/new", "club/new"):
        check_push_target(name)


@pytest.mark.parametrize(("name", "part"), [("data", "namespace/name.*'data'"), ("user/a b", "user/a b"), ("", "''")])
def test_check_push_target_invalid_name_is_an_error(hub, name, part):
    with pytest.raises(PushError, match=part):
        check_push_target(name)
    assert hub.log == []


def test_check_push_target_without_token_is_an_error(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushError, match="HF_TOKEN"):
        check_push_target("user/data")


def test_check_push_target_read_token_is_an_error(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(PushError, match="'read' of 'user'"):
        check_push_target("user/data")


@pytest.mark.parametrize(("permissions", "refused"), [(["repo.content.read"], True), (["repo.write"], False)])
def test_check_push_target_fine_grained_token_needs_write(hub, monkeypatch, permissions, refused):
    scopes = {"scoped": [{"entity": {"name": "user"}, "permissions": permissions}]}
    account = {"name": "user", "auth": {"accessToken": {"role": "fineGrained", "fineGrained": scopes}}}
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda api: account)
    if refused:
        with pytest.raises(PushError, match="can only read"):
            check_push_target("user/data")
    else:
        check_push_target("User/rows")


def test_check_push_target_wrong_token_is_an_error(hub):
    with pytest.raises(PushError, match="401"):
        check_push_target("user/data", token="hf_wrong")


def test_check_push_target_foreign_namespace_lists_own(hub):
    with pytest.raises(PushError, match=r"'them'.*\['user', 'club'\]"):
        check_push_target("them/data")


def test_check_push_target_unreadable_card_is_an_error(hub):
    card = b"---\na: [\n---\n"
    hub.repositories["datasets", "user/data"] = Repository(
        commits=[(new_oid(), "m", {"README.md": Stored(card, len(card))})]
    )
    with pytest.raises(PushError, match=r"user/data: .*README\.md.*YAML"):
        check_push_target("user/data")


def test_check_push_target_foreign_config_is_an_error(hub):
    hub.repositories["datasets", "user/data"] = Repository(
        commits=[(new_oid(), "m", {"one/train.csv": Stored(b"a", 1), "README.md": Stored(b"# x", 3)})]
    )
    check_push_target("user/data")
    with pytest.raises(PushError, match="one/"):
        check_push_target("user/data", config_name="one")


def test_run_with_refused_push_target_generates_nothing(hub, monkeypatch, tmp_path):
    pipeline = Pipeline((TextGeneration(EchoLLM()),))
    rows = Dataset.from_dict({"instruction": ["a"]})
    with pytest.raises(PushError, match="'them'"):
        pipeline.run(rows, run_dir=tmp_path / "run", push_target="them/data", quiet=True)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RANK", "1")
    hub.watch()
    pipeline.run(rows, run_dir=tmp_path / "run", push_target="them/data", quiet=True)
    assert hub.log == [], "process 0 asks, for all"


ONE_FAILURE = Dataset.from_dict({"instruction": ["a", None]}).map(
    TextGeneration(EchoLLM()), batched=True, with_indices=True, load_from_cache_file=False
)


@pytest.fixture(params=["folder", "hub"])
def name(request, tmp_path, hub):
    """A dataset with a row and a failure, in a folder or on the Hub."""
    if request.param == "folder":
        save(ONE_FAILURE, tmp_path / "saved", config_name="text")
        return str(tmp_path / "saved")
    push_to_hub(ONE_FAILURE, "user/saved", config_name="text")
    return "user/saved"


def test_load_failures_in_folder_or_on_hub_finds_them(name):
    assert load_rows(name, "text", "train")["instruction"][:] == ["a"]
    assert load_failures(name, "text", "train")["reason"][:] == ["instruction is None"]


def test_load_runs_in_folder_or_on_hub_finds_them(name):
    (run,) = load_runs(name, "text", "train")
    assert run.steps[0].failures == {"instruction is None": 1}


def test_load_runs_of_absent_config_or_split_is_empty(name):
    assert load_failures(name, "other", "train") is None
    assert load_runs(name, "other", "train") == load_runs(name, "text", "test") == ()


def test_load_failures_of_unreachable_hub_are_none_with_log(hub, no_waiting, caplog):
    push_to_hub(ONE_FAILURE, "user/saved", config_name="text")
    hub.watch(dict.fromkeys(range(1000), 503))
    assert load_failures("user/saved", "text", "train") is None
    assert "text/failures/train.parquet of user/saved" in caplog.text


def test_load_runs_of_other_version_is_an_error(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "hfsynth.json").write_text('{"splits": 3}')
    with pytest.raises(ValueError, match=r"hfsynth\.json"):
        load_runs(str(tmp_path), "text", "train")


def test_load_runs_of_a_file_is_empty(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a"}')
    assert load_failures(str(tmp_path / "rows.jsonl"), None, "train") is None
    assert load_runs(str(tmp_path / "rows.jsonl"), None, "train") == ()


def fetched(tmp_path, **fields):
    rows = Pipeline((Magpie(NamedLLM(**fields)),)).run(Dataset.from_dict({"id": [1]}), quiet=True)
    return fetch_origins(HfApi(), write_config(tmp_path, rows, "default", ()))


def test_fetch_origins_reads_the_card_of_a_model_on_the_hub(hub, tmp_path):
    hub.repositories["models", "user/model"] = Repository(card={"license": "mit", "language": ["en", "de"]})
    assert fetched(tmp_path, model="user/model") == {"user/model": Origin("", "mit", ("en", "de"))}


def test_fetch_origins_recorded_license_or_folder_is_skipped(hub, tmp_path):
    assert fetched(tmp_path, model="user/model", license="mit") == {}
    assert fetched(tmp_path, model="folder") == {}
    assert hub.log == []


@pytest.mark.parametrize("fault", [403, 503])
def test_fetch_origins_unreadable_card_is_left_out_with_log(hub, tmp_path, caplog, fault, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.watch(dict.fromkeys(range(1000), fault))
    assert fetched(tmp_path, model="user/model") == {}
    assert "license of user/model" in caplog.text


def test_fetch_origins_of_model_without_card_is_empty(hub, tmp_path):
    hub.repositories["models", "user/model"] = Repository()
    assert fetched(tmp_path, model="user/model") == {"user/model": Origin()}


REQUEST = httpx2.Request("GET", "http://hub")


def answer(status, **headers):
    response = httpx2.Response(
        status, headers={name.replace("_", "-"): value for name, value in headers.items()}, request=REQUEST
    )
    return HfHubHTTPError(f"answer {status}", response=response)


@pytest.fixture
def pauses(monkeypatch):
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def failing(*errors):
    remaining = list(errors)

    def call():
        if remaining:
            raise remaining.pop(0)
        return "done"

    return call


@pytest.mark.parametrize(
    "error", [answer(409), answer(412), answer(429), answer(503), httpx2.ConnectError("no")], ids=str
)
def test_with_retries_transient_error_is_retried(error, pauses):
    assert with_retries("asking", failing(error, error)) == "done"
    assert len(pauses) == 2


@pytest.mark.parametrize(
    "error", [answer(400), answer(401), answer(404), ValueError("x"), OfflineModeIsEnabled("o")], ids=str
)
def test_with_retries_lasting_error_is_raised_at_once(error, pauses):
    with pytest.raises(type(error)):
        with_retries("asking", failing(error))
    assert pauses == []


def test_with_retries_gives_up_after_eight_attempts(pauses):
    with pytest.raises(PushError, match=r"asking failed 8 times: answer 503"):
        with_retries("asking", failing(*[answer(503)] * 8))
    assert len(pauses) == 7
    assert pauses[0] < pauses[3] < pauses[6] <= 40


def test_with_retries_interrupt_is_raised_at_once(pauses):
    """An interrupt while the client handles a broken connection has that failure as its context."""
    error = KeyboardInterrupt()
    error.__context__ = httpx2.ConnectError("no")
    with pytest.raises(KeyboardInterrupt):
        with_retries("asking", failing(error))
    assert pauses == []


def test_with_retries_logs_reason_and_pause(pauses, caplog):
    with_retries("asking", failing(answer(503, Retry_After="17")))
    (message,) = caplog.messages
    assert "answer 503" in message
    assert "17 seconds" in message


def test_with_retries_limits_requests_to_300_seconds():
    before = get_session().timeout
    limit = with_retries("asking", lambda: get_session().timeout)
    assert (limit.read, limit.connect) == (300, 30)
    assert get_session().timeout == before


def test_with_retries_in_two_threads_keeps_the_limit():
    """The second thread asks while the first one ends, and the client is as before in the end."""
    before, entered, ended = get_session().timeout, threading.Event(), threading.Event()

    def ask_long():
        entered.set()
        assert ended.wait(10)
        return get_session().timeout

    with ThreadPoolExecutor() as threads:

        def ask_first():
            long = threads.submit(with_retries, "asking", ask_long)
            assert entered.wait(10)
            return long

        long = with_retries("asking", ask_first)
        ended.set()
        assert long.result().read == 300
    assert get_session().timeout == before


def test_with_retries_waits_as_long_as_retry_after_says(pauses):
    with_retries("asking", failing(answer(429, Retry_After="17")))
    assert pauses == [17]


def test_with_retries_waits_until_rate_limit_resets(pauses):
    limited = answer(429)
    limited.response.headers["RateLimit"] = '"api";r=0;t=240'
    with_retries("asking", failing(limited))
    assert pauses == [241]


def test_is_transient_counts_the_cause_of_an_error():
    error = RuntimeError("while uploading")
    error.__cause__ = answer(500)
    assert is_transient(error)
    assert (status_of(error), status_of(error.__cause__)) == (None, 500)


def test_is_transient_error_page_instead_of_json_counts():
    assert is_transient(json.JSONDecodeError("an error page", "", 0))
