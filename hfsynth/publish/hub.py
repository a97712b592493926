"""Push a dataset to the Hub in one commit, after its token, name and repository are checked."""

import copy
import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, config
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hfsynth.distributed import is_main_process
from hfsynth.errors import PushError
from hfsynth.publish.card import read_metadata, write_card
from hfsynth.publish.card_data import ConfigFacts, look_up
from hfsynth.publish.file_names import FACTS, conflict, is_ours, our_configs
from hfsynth.publish.files import check_config_name, splits_of, write_config, write_facts
from hfsynth.publish.retry import persistently, status_of, told
from hfsynth.step import Step


def check_push_target(repo_id: str, token: str | None = None, config_name: str | None = None) -> None:
    """Check that a dataset can be pushed to a repository, as far as that is known before there is one.

    Args:
        repo_id: `user/name`.
        token: Default: the one that you are logged in with.
        config_name: The configuration that is to be pushed, where it is known.

    Raises:
        PushError: If the name isn't one, there is no token or it may not write, the namespace is somebody else's, or
            the card that is there can't be read, or something there, which hfsynth did not push, would be lost.
    """
    _check_name(repo_id)
    if not (token or get_token()):
        raise PushError(f"no token to push {repo_id!r} with; run `hf auth login`, or set HF_TOKEN to a write token.")
    api = HfApi(token=token)
    try:
        _check_account(persistently("asking who you are", api.whoami), repo_id.partition("/")[0])
        persistently(f"asking for {repo_id}", lambda: _check_repository(api, repo_id, config_name))
    except OfflineModeIsEnabled as error:
        raise PushError(f"{repo_id!r} can't be pushed to offline; unset HF_HUB_OFFLINE.") from error
    except HfHubHTTPError as error:
        if status_of(error) in (401, 403):
            raise PushError(
                f"the token can't write to {repo_id!r} ({status_of(error)}): it is wrong, has expired, or lacks the "
                "right. Make one with write access in your settings on the Hub, and log in with `hf auth login`."
            ) from error
        raise PushError(f"the Hub refuses {repo_id!r}: {told(error)}") from error


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is no name for a dataset: {error}") from None
    if "/" not in repo_id:
        raise PushError(f"{repo_id!r} says not whose the dataset is; use 'user/{repo_id}'.")


def _check_account(account: dict[str, Any], namespace: str) -> None:
    """Check that an account can write to a namespace with the token it showed."""
    token = (account.get("auth") or {}).get("accessToken") or {}
    scopes = (token.get("fineGrained") or {}).get("scoped", ())
    permissions = [permission for scope in scopes for permission in scope.get("permissions", ())]
    reads = bool(permissions) and not any("repo" in one and "write" in one for one in permissions)
    if token.get("role") == "read" or reads:
        raise PushError(
            f"the token {token.get('displayName', '')!r} of {account['name']!r} can only read; log in with one that "
            "can write: `hf auth login`."
        )
    organizations = {one["name"]: one.get("roleInOrg", "") for one in account.get("orgs") or ()}
    mine = [account["name"], *(name for name, role in organizations.items() if role != "read")]
    if namespace.lower() not in map(str.lower, mine):
        raise PushError(
            f"the namespace {namespace!r} isn't yours to write to; as {account['name']!r} you have {mine}."
        )


def _ask_the_hub(api: HfApi, card: str) -> None:
    """See what the Hub has against a card that it holds: its rules may be newer than the card.

    Raises:
        ValueError: If it would refuse it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api._validate_yaml(card, repo_type="dataset")


def _check_repository(api: HfApi, repo_id: str, config_name: str | None) -> None:
    """Check that a repository that is there can be written to, its card be kept, and nothing there be lost."""
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
            _ask_the_hub(api, text)
    except json.JSONDecodeError:  # no answer: asked again
        raise
    except ValueError as error:
        raise PushError(f"{repo_id}: {told(error)} Mend it there first.") from error
    if config_name is not None and (reason := conflict(config_name, paths, metadata)):
        raise PushError(f"{repo_id}: {reason}.")


def push_to_hub(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    *,
    config_name: str = "default",
    private: bool | None = None,
    token: str | None = None,
    steps: Sequence[Step] = (),
) -> str | None:
    """Push the rows on which no step failed, the failures, the recipe and a card that tells of them, in one commit.

    Pushing a configuration again replaces it and leaves the others, all other files, and what the user wrote in the
    card. Where nothing has changed, no commit is made. Of several processes, process 0 pushes.

    Args:
        dataset: What `pipeline.run` returned, or `Dataset.map` with a technique.
        repo_id: The dataset on the Hub, `user/name`; it is made if it isn't there.
        config_name: Name of the configuration, and of its folder.
        private: Whether a dataset that is made is private; default: as the namespace has it.
        token: A token with write access; default: the one that you are logged in with.
        steps: The techniques, where the dataset was made by `Dataset.map`: a run's are in the dataset.

    Returns:
        The address of the commit; None in other processes.

    Raises:
        PushError: If the token, the name or the card is refused, or the Hub can't be reached. The dataset there is
            then what it was.
        ValueError: If the name of the configuration can't be a folder's.
    """
    check_config_name(config_name)
    splits_of(dataset)
    if not is_main_process():
        return None
    check_push_target(repo_id, token, config_name)
    api = HfApi(token=token)
    cache = Path(config.HF_DATASETS_CACHE)  # where a dataset of this size has room, which /tmp may not have
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hfsynth-push-", dir=cache) as folder:
        written = Path(folder) / config_name
        written.mkdir()
        facts = write_config(written, dataset, config_name, steps)
        facts = write_facts(written, facts, look_up(api, facts))
        try:
            return _Push(api, repo_id, facts, Path(folder)).run(private)
        except HfHubHTTPError as error:
            raise PushError(f"the Hub refuses the push to {repo_id}: {told(error)}") from error
        except ValueError as error:  # how the client says that the Hub refuses a card
            raise PushError(f"the card of {repo_id} is refused: {told(error)}") from error
        except RuntimeError as error:  # how the client says that an upload is refused
            if isinstance(error, PushError) or not isinstance(error.__cause__, HfHubHTTPError):
                raise
            raise PushError(f"the Hub refuses an upload to {repo_id}: {told(error.__cause__)}") from error


@dataclass(frozen=True)
class _Push:
    """A configuration on its way to the Hub."""

    api: HfApi
    repo_id: str
    facts: ConfigFacts
    folder: Path
    """Its files are in the subfolder of its name."""

    def run(self, private: bool | None) -> str:
        """Make the repository where there is none, upload and commit the files; return the commit's address.

        Raises:
            PushError: If the Hub can't be reached, or the repository would not take a file.
        """
        name, api, repo_id = self.facts.config_name, self.api, self.repo_id
        persistently(f"making {repo_id}", lambda: _make_repository(api, repo_id, private))
        paths = sorted(path for path in (self.folder / name).rglob("*") if path.is_file())
        files = [CommitOperationAdd(path.relative_to(self.folder).as_posix(), path) for path in paths]
        persistently(
            f"uploading to {repo_id}",
            lambda: api.preupload_lfs_files(repo_id, files, repo_type="dataset", free_memory=False),
        )
        if ignored := [file.path_in_repo for file in files if file._should_ignore]:
            raise PushError(f"the .gitignore of {repo_id} leaves out {ignored}; take out what matches them there.")
        return persistently(f"the commit to {repo_id}", lambda: self._commit(files))

    def _commit(self, files: Sequence[CommitOperationAdd]) -> str:
        """Try once, on top of what the repository holds now."""
        head = str(self.api.dataset_info(self.repo_id, revision="main").sha)
        there = self._files(head)
        card = CommitOperationAdd("README.md", self._card(head, there).encode())
        kept = {file.path_in_repo for file in files}
        # another number of shards leaves files of the old number, which the card's pattern would load
        stale = [path for path in there if is_ours(path, self.facts.config_name) and path not in kept]
        if not stale and all(_holds(there, file) for file in (*files, card)):
            return f"{self.api.endpoint}/datasets/{self.repo_id}/commit/{head}"
        additions = [copy.copy(file) for file in files]  # what was uploaded is known; the client marks what it commits
        for addition in additions:
            addition._remote_oid = None  # of the time of the upload: it may be another by now
        made = self.api.create_commit(
            self.repo_id,
            [*additions, card, *(CommitOperationDelete(path) for path in stale)],
            commit_message=f"Write {self.facts.config_name}: {self.facts.rows:,} rows, with hfsynth",
            repo_type="dataset",
            parent_commit=head,
        )
        return str(made.commit_url)

    def _files(self, head: str) -> dict[str, RepoFile]:
        """List what a commit holds, by path."""
        tree = self.api.list_repo_tree(self.repo_id, repo_type="dataset", revision=head, recursive=True)
        return {file.path: file for file in tree if isinstance(file, RepoFile)}

    def _card(self, head: str, there: Mapping[str, RepoFile]) -> str:
        """Write the card on top of the one there."""
        text = self._read(head, "README.md") if "README.md" in there else ""
        if reason := conflict(self.facts.config_name, there, read_metadata(text)[0]):
            raise PushError(f"{self.repo_id}: {reason}.")
        before = [ConfigFacts.from_json(self._read(head, f"{name}/{FACTS}")) for name in sorted(our_configs(there))]
        now = {**{one.config_name: one for one in before}, self.facts.config_name: self.facts}
        return write_card(self.repo_id, text, before, [now[name] for name in sorted(now)])

    def _read(self, head: str, path: str) -> str:
        file = self.api.hf_hub_download(
            self.repo_id, path, repo_type="dataset", revision=head, cache_dir=self.folder / ".cache"
        )
        return Path(file).read_text(encoding="utf-8")


def _make_repository(api: HfApi, repo_id: str, private: bool | None) -> None:
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    except KeyError as error:  # the client takes every 409 for "there already", which comes with an address
        raise ConnectionError(f"the Hub is busy making {repo_id}") from error


def _holds(there: Mapping[str, RepoFile], file: CommitOperationAdd) -> bool:
    """Whether a commit holds a file with the same content."""
    found = there.get(file.path_in_repo)
    if found is None or found.size != file.upload_info.size:
        return False
    if found.lfs is not None:
        return bool(found.lfs.sha256 == file.upload_info.sha256.hex())
    with file.as_file() as opened:
        content = opened.read()
    return bool(found.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
