"""Push a dataset to the Hub in one commit, read a published one, and retry calls of the Hub after temporary errors.

A push first checks the token, the name and the repository. A published dataset is on the Hub, or in a folder.
"""

import copy
import hashlib
import json
import logging
import random
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, config
from httpx2 import Timeout, TransportError
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_session,
    get_token,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    parse_ratelimit_headers,
    validate_repo_id,
)

from hfsynth.data import find_path
from hfsynth.distributed import is_main_process
from hfsynth.errors import PushError
from hfsynth.llm import Origin
from hfsynth.progress import without_bars
from hfsynth.publish.card import read_metadata, write_card
from hfsynth.publish.card_data import ConfigFacts, model_steps, origin_key, text_sources
from hfsynth.publish.files import (
    FACTS_FILE,
    SPLIT_NAME,
    PublishedConfig,
    check_config_name,
    generated_configs,
    is_generated_file,
    overwrite_conflict,
    read_facts,
    splits_of,
    write_config,
    write_facts,
)
from hfsynth.record import RunRecord
from hfsynth.step import Step
from hfsynth.text import counted, one_line
from hfsynth.training_format import TrainingFormat

T = TypeVar("T")
logger = logging.getLogger(__name__)
MAX_ATTEMPTS = 8
ANSWER_TIMEOUT = 300.0
"""Seconds within one request that the client waits for data from the Hub."""
_CONNECT_TIMEOUT, _MAX_BACKOFF, _MAX_RETRY_AFTER = 30.0, 30.0, 300.0  # seconds
_TRANSIENT_STATUSES = (408, 409, 412, 429)  # timeout, conflict, changed meanwhile, rate limit; and 500 and above
# a JSONDecodeError comes from a proxy that answers with an error page
_TRANSIENT_ERRORS = (TransportError, json.JSONDecodeError, LocalEntryNotFoundError, ConnectionError)


def push_to_hub(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    *,
    config_name: str = "default",
    private: bool | None = None,
    token: str | None = None,
    steps: Sequence[Step] = (),
    format: TrainingFormat | str | None = None,
) -> str | None:
    """Push a dataset in one commit: the rows on which no step failed, the failures, the recipe and a dataset card.

    A second push of a configuration replaces it; other configurations, other files and the user's text in the card
    are not changed. If nothing changed, no commit is created. With several processes, only process 0 pushes.

    Args:
        dataset: The result of `pipeline.run`, or of `Dataset.map` with a technique.
        repo_id: The dataset on the Hub, `user/name`; created if it does not exist.
        config_name: Name of the configuration, and of its folder.
        private: Whether a new dataset is private; default: the namespace's setting.
        token: A token with write access; default: the one that you are logged in with.
        steps: The techniques of a dataset that `Dataset.map` generated; the result of a run contains them.
        format: The training format, as for `save`.

    Returns:
        The URL of the commit; None in processes other than 0.

    Raises:
        PushError: If the token, the name or the card is refused, or the Hub can't be reached. The dataset on the Hub
            is then unchanged.
        ValueError: If `config_name` can't be a folder's name.

    >>> push_to_hub(dataset, "user/name", config_name="magpie")  # doctest: +SKIP
    'https://huggingface.co/datasets/user/name/commit/…'
    """
    check_config_name(config_name)
    splits_of(dataset)
    if not is_main_process():
        return None
    check_push_target(repo_id, token, config_name)
    api = HfApi(token=token)
    cache = Path(config.HF_DATASETS_CACHE)  # /tmp may be too small for a dataset
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hfsynth-push-", dir=cache) as folder:
        config_folder = Path(folder) / config_name
        config_folder.mkdir()
        facts = write_config(config_folder, dataset, config_name, steps, format)
        facts = write_facts(config_folder, facts, fetch_origins(api, facts))
        try:
            return _Push(api, repo_id, facts, Path(folder)).run(private)
        except HfHubHTTPError as error:
            raise PushError(f"the Hub refuses the push to {repo_id}: {one_line(error)}") from error
        except ValueError as error:  # the client's error for a card that the Hub refuses
            raise PushError(f"the Hub refuses the card of {repo_id}: {one_line(error)}") from error
        except RuntimeError as error:  # the client's error for an upload that the Hub refuses
            if isinstance(error, PushError) or not isinstance(error.__cause__, HfHubHTTPError):
                raise
            raise PushError(f"the Hub refuses an upload to {repo_id}: {one_line(error.__cause__)}") from error


def check_push_target(repo_id: str, token: str | None = None, config_name: str | None = None) -> None:
    """Check that a dataset can be pushed to a repository, before there is a dataset.

    Args:
        repo_id: The dataset on the Hub, `user/name`.
        token: A token with write access. Default: the one that you are logged in with.
        config_name: The configuration; None if its name is not known yet.

    Raises:
        PushError: If the name is invalid, the token is missing or can't write to the namespace, the card on the Hub
            can't be read, or the push would overwrite files that hfsynth did not write.
    """
    _check_name(repo_id)
    if not (token or get_token()):
        raise PushError(f"no token to push {repo_id!r} with; run `hf auth login`, or set HF_TOKEN to a write token.")
    api = HfApi(token=token)
    try:
        _check_account(with_retries("reading your account", api.whoami), repo_id.partition("/")[0])
        with_retries(f"reading {repo_id}", lambda: _check_repository(api, repo_id, config_name))
    except OfflineModeIsEnabled as error:
        raise PushError(f"{repo_id!r} can't be pushed to offline; unset HF_HUB_OFFLINE.") from error
    except HfHubHTTPError as error:
        if status_of(error) in (401, 403):
            raise PushError(
                f"the token can't write to {repo_id!r} ({status_of(error)}): it is wrong, expired or read-only. "
                "Create one with write access in your settings on the Hub, and log in with `hf auth login`."
            ) from error
        raise PushError(f"the Hub refuses {repo_id!r}: {one_line(error)}") from error


def fetch_origins(api: HfApi, facts: ConfigFacts) -> dict[str, Origin]:
    """Read the licenses and languages of models and sources from their cards on the Hub.

    Args:
        api: The Hub's client.
        facts: The configuration. A model whose license is in the record is not looked up.

    Returns:
        The origins by `origin_key`; models and sources whose card can't be read are missing, with a warning.
    """
    repositories = {
        (step.node.model, step.origin.commit): ("model", str((step.recipe.get("llm") or {}).get("model", "")))
        for step in model_steps(facts)
        if not step.origin.license
    }
    sources = [*(run.source for run in facts.runs), *text_sources(facts)]
    repositories |= {(source.name, source.commit): ("dataset", source.name) for source in sources}
    found = {}
    for (name, commit), (kind, repo_id) in repositories.items():
        if "/" in repo_id and (origin := _fetch_origin(api, kind, repo_id, commit)):
            found[origin_key(name, commit)] = origin
    return found


def load_failures(name: str, config: str | None, split: str, revision: str | None = None) -> Dataset | None:
    """Load the failures that were saved or pushed with a dataset's rows.

    Args:
        name: The dataset, as in `data.load_rows`.
        config: The configuration; None for "default".
        split: The split.
        revision: Commit, branch or tag, on the Hub.

    Returns:
        None if there are none, or, with a warning, if the Hub can't be reached.
    """
    file = _find_file(name, f"{config or 'default'}/failures/{split}.parquet", revision)
    return Dataset(pq.read_table(file)) if file else None


def load_runs(name: str, config: str | None, split: str, revision: str | None = None) -> tuple[RunRecord, ...]:
    """Load the records of the runs that generated a split.

    Args:
        name: The dataset, as in `data.load_rows`.
        config: The configuration; None for "default".
        split: The split.
        revision: Commit, branch or tag, on the Hub.

    Returns:
        () if none were saved or pushed with the rows, or, with a warning, if the Hub can't be reached.

    Raises:
        ValueError: If another version of hfsynth wrote the records.
    """
    file = _find_file(name, f"{config or 'default'}/{FACTS_FILE}", revision)
    splits = ConfigFacts.from_json(file.read_text(encoding="utf-8")).splits if file else ()
    return next((facts.runs for facts in splits if facts.name == split), ())


def load_published_config(name: str, config: str | None = None, revision: str | None = None) -> PublishedConfig:
    """Load a configuration of a published dataset; files on the Hub are downloaded.

    Args:
        name: The dataset on the Hub, `user/name`, or its folder.
        config: The configuration; None if the dataset has only one.
        revision: Commit, branch or tag of a dataset on the Hub.

    Raises:
        ValueError: If the configuration does not exist, `config` is None and there are several, or the record can't be
            read.
    """
    folder = find_path(name)
    commit = ""
    if folder is None:
        if "/" not in name:
            raise ValueError(f"there is no folder {name!r} here; a dataset on the Hub has a name like user/{name}.")
        folder = _download(name, ["README.md", f"*/{FACTS_FILE}"], revision)
        commit = folder.name
    names = sorted(generated_configs([path.relative_to(folder).as_posix() for path in folder.glob(f"*/{FACTS_FILE}")]))
    chosen = _choose_config(name, names, config)
    if commit:
        folder = _download(name, ["README.md", f"*/{FACTS_FILE}", f"{chosen}/*"], commit)
    others = read_facts(folder)
    facts = next((one for one in others if one.config_name == chosen), None)
    if facts is None or not all(SPLIT_NAME.fullmatch(split.name) for split in facts.splits):
        raise ValueError(f"{chosen}/{FACTS_FILE} of {name!r} is not the record of the configuration {chosen!r}.")
    return PublishedConfig(name, commit, folder, facts, tuple(others))


def with_retries(action: str, call: Callable[[], T]) -> T:
    """Return the result of a call to the Hub, retried after transient errors.

    The pause between attempts grows exponentially, unless the Hub asks for a certain pause.

    Args:
        action: Name of the call in messages, such as "reading user/name".
        call: The function to call; must be safe to repeat.

    Raises:
        PushError: If `MAX_ATTEMPTS` attempts failed. Errors that aren't transient are raised at once.
    """
    attempt = 1
    while True:
        try:
            with _ANSWER_TIMEOUT:
                return call()
        except (OSError, ValueError, RuntimeError, TransportError) as error:
            if not is_transient(error):
                raise
            if attempt == MAX_ATTEMPTS:
                raise PushError(f"{action} failed {attempt} times: {one_line(error)}. Try again later.") from error
            seconds = _retry_after(error) or min(2.0 ** (attempt - 1), _MAX_BACKOFF) + random.uniform(0, 2)
            logger.warning("%s failed: %s; trying again in %.0f seconds", action, one_line(error), seconds)
        time.sleep(seconds)
        attempt += 1


def is_transient(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, may disappear when the call is repeated."""
    return any(
        status in _TRANSIENT_STATUSES or status >= 500
        if (status := status_of(cause))
        else isinstance(cause, _TRANSIENT_ERRORS) and not isinstance(cause, OfflineModeIsEnabled)
        for cause in _causes(error)
    )


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of the Hub's client; None if the error has no response."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is not a valid name of a dataset: {error}") from None
    if "/" not in repo_id:
        raise PushError(f"repo_id must be 'namespace/name', got {repo_id!r}.")


def _check_account(account: Mapping[str, Any], namespace: str) -> None:
    """Check that a token can write to a namespace, from the response of `whoami`."""
    token = (account.get("auth") or {}).get("accessToken") or {}
    scopes = (token.get("fineGrained") or {}).get("scoped", ())
    permissions = [permission for scope in scopes for permission in scope.get("permissions", ())]
    only_reads = bool(permissions) and not any("repo" in name and "write" in name for name in permissions)
    if token.get("role") == "read" or only_reads:
        raise PushError(
            f"the token {token.get('displayName', '')!r} of {account['name']!r} can only read; log in with a token "
            "that can write: `hf auth login`."
        )
    organizations = {one["name"]: one.get("roleInOrg", "") for one in account.get("orgs") or ()}
    writable = [account["name"], *(name for name, role in organizations.items() if role != "read")]
    if namespace.lower() not in map(str.lower, writable):
        raise PushError(f"{account['name']!r} can't write to the namespace {namespace!r}; use one of {writable}.")


def _check_repository(api: HfApi, repo_id: str, config_name: str | None) -> None:
    """Check that the push can write to an existing repository, with a valid card, and overwrites no user's file."""
    try:
        api.auth_check(repo_id, repo_type="dataset", write=True)
    except RepositoryNotFoundError:
        return
    paths = api.list_repo_files(repo_id, repo_type="dataset")
    card = api.hf_hub_download(repo_id, "README.md", repo_type="dataset") if "README.md" in paths else None
    text = Path(card).read_text(encoding="utf-8") if card else ""
    try:
        metadata, _ = read_metadata(text)
        if metadata:
            _validate_on_hub(api, text)
    except json.JSONDecodeError:  # the answer comes from a proxy, not the Hub: a transient error
        raise
    except ValueError as error:
        raise PushError(f"{repo_id}: {one_line(error)} Fix README.md on the Hub, then push again.") from error
    if config_name is not None and (reason := overwrite_conflict(config_name, paths, metadata)):
        raise PushError(f"{repo_id}: {reason}.")


def _validate_on_hub(api: HfApi, card: str) -> None:
    """Validate the current card on the Hub, whose rules may have changed since the card was written.

    Raises:
        ValueError: If the Hub would refuse the card.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api._validate_yaml(card, repo_type="dataset")


@dataclass(frozen=True)
class _Push:
    """The push of one configuration; its files are in the subfolder with its name."""

    api: HfApi
    repo_id: str
    facts: ConfigFacts
    folder: Path

    def run(self, private: bool | None) -> str:
        """Create the repository if needed, upload and commit the files; return the commit's URL.

        Raises:
            PushError: If the Hub can't be reached, or the repository's .gitignore excludes a file.
        """
        api, repo_id = self.api, self.repo_id
        with_retries(f"creating {repo_id}", lambda: _create_repository(api, repo_id, private))
        paths = sorted(path for path in (self.folder / self.facts.config_name).rglob("*") if path.is_file())
        files = [CommitOperationAdd(path.relative_to(self.folder).as_posix(), path) for path in paths]
        with_retries(
            f"uploading to {repo_id}",
            lambda: api.preupload_lfs_files(repo_id, files, repo_type="dataset", free_memory=False),
        )
        if ignored := [file.path_in_repo for file in files if file._should_ignore]:
            raise PushError(f"the .gitignore of {repo_id} excludes {ignored}; remove the matching lines from it.")
        return with_retries(f"committing to {repo_id}", lambda: self._commit(files))

    def _commit(self, files: Sequence[CommitOperationAdd]) -> str:
        """Commit on top of the repository's head; return the commit's URL or, if nothing changed, that of the head."""
        head = str(self.api.dataset_info(self.repo_id, revision="main").sha)
        present = self._files(head)
        card = CommitOperationAdd("README.md", self._card(head, present).encode())
        pushed = {file.path_in_repo for file in files}
        # shards of an earlier push with another number of shards would match the card's pattern and be loaded
        stale = [path for path in present if is_generated_file(path, self.facts.config_name) and path not in pushed]
        if not stale and all(_has_content(present, file) for file in (*files, card)):
            return f"{self.api.endpoint}/datasets/{self.repo_id}/commit/{head}"
        additions = [copy.copy(file) for file in files]  # the client changes them, and a retry needs unchanged ones
        for addition in additions:
            addition._remote_oid = None  # read at the upload; the file on the Hub may have changed meanwhile
        commit = self.api.create_commit(
            self.repo_id,
            [*additions, card, *(CommitOperationDelete(path) for path in stale)],
            commit_message=f"Write {self.facts.config_name}: {counted(self.facts.rows, 'row')}, with hfsynth",
            repo_type="dataset",
            parent_commit=head,
        )
        return str(commit.commit_url)

    def _files(self, head: str) -> dict[str, RepoFile]:
        """Return the files of a commit by their paths."""
        tree = self.api.list_repo_tree(self.repo_id, repo_type="dataset", revision=head, recursive=True)
        return {file.path: file for file in tree if isinstance(file, RepoFile)}

    def _card(self, head: str, present: Mapping[str, RepoFile]) -> str:
        """Return the card of the head, updated with this configuration."""
        text = self._read(head, "README.md") if "README.md" in present else ""
        if reason := overwrite_conflict(self.facts.config_name, present, read_metadata(text)[0]):
            raise PushError(f"{self.repo_id}: {reason}.")
        names = sorted(generated_configs(present))
        before = [ConfigFacts.from_json(self._read(head, f"{name}/{FACTS_FILE}")) for name in names]
        now = {**{facts.config_name: facts for facts in before}, self.facts.config_name: self.facts}
        return write_card(self.repo_id, text, before, [now[name] for name in sorted(now)])

    def _read(self, head: str, path: str) -> str:
        file = self.api.hf_hub_download(
            self.repo_id, path, repo_type="dataset", revision=head, cache_dir=self.folder / ".cache"
        )
        return Path(file).read_text(encoding="utf-8")


def _create_repository(api: HfApi, repo_id: str, private: bool | None) -> None:
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    except KeyError as error:  # for every 409 the client reads the existing repository's url, which a busy Hub omits
        raise ConnectionError(f"the Hub is busy creating {repo_id}") from error


def _has_content(present: Mapping[str, RepoFile], file: CommitOperationAdd) -> bool:
    """Return whether a commit's files, by their paths, include a file with the same content."""
    found = present.get(file.path_in_repo)
    if found is None or found.size != file.upload_info.size:
        return False
    if found.lfs is not None:
        return bool(found.lfs.sha256 == file.upload_info.sha256.hex())
    with file.as_file() as opened:
        content = opened.read()
    return bool(found.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def _fetch_origin(api: HfApi, kind: str, repo_id: str, commit: str) -> Origin | None:
    try:
        read_info = api.model_info if kind == "model" else api.dataset_info
        info = with_retries(f"reading the card of {repo_id}", lambda: read_info(repo_id, revision=commit or None))
    except (HfHubHTTPError, PushError) as error:
        logger.warning("the license of %s is unknown: %s", repo_id, error)
        return None
    card: dict[str, Any] = vars(info.card_data) if info.card_data else {}
    return Origin.of_card(card, commit)


def _find_file(name: str, place: str, revision: str | None) -> Path | None:
    """Return the path of a dataset's file in a folder or on the Hub.

    Returns:
        None if there is no such file, or, with a warning, if the Hub can't be reached.
    """
    path = find_path(name)
    if path is not None:
        file = path / place
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(name, place, repo_type="dataset", revision=revision))
    except LocalEntryNotFoundError as error:
        logger.warning("%s of %s is left out, because it can't be read: %s", place, name, one_line(error))
        return None
    except EntryNotFoundError:
        return None


def _choose_config(name: str, names: Sequence[str], config: str | None) -> str:
    if not names:
        raise ValueError(
            f"{name!r} has no {FACTS_FILE}, the record that hfsynth.save and push_to_hub write beside the rows; for "
            "rows of Dataset.map, call hfsynth.save(dataset, folder, steps=[…]) and verify that folder."
        )
    if config is None and len(names) == 1:
        return names[0]
    if config is None or config not in names:
        problem = "has several configurations" if config is None else f"has no configuration {config!r}"
        raise ValueError(f"{name!r} {problem}; name one with --config: {', '.join(names)}.")
    return config


def _download(name: str, patterns: list[str], revision: str | None) -> Path:
    with without_bars():
        folder = with_retries(
            f"downloading {name}",
            lambda: snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns),
        )
    return Path(folder)


class _AnswerTimeout:
    """Context manager that limits the time that the Hub's client waits for an answer, which is unlimited by default.

    All threads share the client: the first that enters sets the limit, and the last that leaves restores the default.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._entered:
                self._session = get_session()
                self._default = self._session.timeout
                self._session.timeout = Timeout(ANSWER_TIMEOUT, connect=_CONNECT_TIMEOUT, pool=None)
            self._entered += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                self._session.timeout = self._default


_ANSWER_TIMEOUT = _AnswerTimeout()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; for an upload, the Hub's response is in a cause."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _retry_after(error: BaseException) -> float | None:
    """Return the pause in seconds that the Hub asks for; None if the response has none."""
    for response in (cause.response for cause in _causes(error) if isinstance(cause, HfHubHTTPError)):
        limit = parse_ratelimit_headers(response.headers)
        seconds = str(limit.reset_in_seconds + 1 if limit else response.headers.get("Retry-After", ""))
        if seconds.isdigit():
            return min(float(seconds), _MAX_RETRY_AFTER)
    return None
