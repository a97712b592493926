"""Whether a dataset may be pushed: asked before a week of generation, and not after."""

import json
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hfsynth.errors import PushError
from hfsynth.publishing.card import read_metadata
from hfsynth.publishing.ownership import conflict
from hfsynth.publishing.retrying import persistently, status_of, told


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
