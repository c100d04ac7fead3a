"""Sending an exported folder to the hub, when a person asks for it and has seen what goes where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog import HUB_ID
from engine.export import ExportRefused

LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"


class PushFailed(Exception):
    """The hub did not take it. The message is for the person, and holds no token."""


@dataclass(frozen=True)
class Repository:
    """Where it would go, as the hub says now."""

    id: str
    exists: bool
    private: bool
    """Of one that exists, as it is; of a new one, as it would be made."""
    account: str
    """Who the token belongs to."""


@dataclass(frozen=True)
class Pushed:
    """What became of it."""

    url: str
    commit: str | None


def look_up(repo_id: str, public: bool) -> Repository:
    """Whether the repository is there, and who is asking. Nothing is changed. Raises ExportRefused and PushFailed."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if repo_id.count("/") != 1 or not HUB_ID.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id:
        raise ExportRefused(f"--push is {repo_id!r}; write owner/name, such as you/my-adapter.")
    api = HfApi()
    try:
        account = str(api.whoami()["name"])
        try:
            info = api.repo_info(repo_id, repo_type="model")
        except RepositoryNotFoundError:
            return Repository(repo_id, False, not public, account)
        return Repository(repo_id, True, bool(info.private), account)
    except Exception as error:
        raise _why_not(error, repo_id) from None


def push(folder: Path, repository: Repository, message: str) -> Pushed:
    """Make the repository if it is new, and commit every file of `folder` to it. Raises PushFailed."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    try:
        if not repository.exists:
            api.create_repo(repository.id, repo_type="model", private=repository.private)
        commit = api.upload_folder(folder_path=folder, repo_id=repository.id, repo_type="model", commit_message=message)
    except Exception as error:
        raise _why_not(error, repository.id) from None
    return Pushed(f"{api.endpoint}/{repository.id}", getattr(commit, "oid", None))


def _why_not(error: Exception, repo_id: str) -> PushFailed:
    """In words; a token that a message quotes is taken out."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalTokenNotFoundError):
        return PushFailed(f"There is no hub token here. {LOG_IN}; nothing was sent.")
    if isinstance(error, OfflineModeIsEnabled):
        return PushFailed("HF_HUB_OFFLINE is set: nothing is sent. Unset it to push.")
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        if code == 401:
            return PushFailed(f"The hub does not know the token (401). {LOG_IN} anew.")
        if code == 403:
            return PushFailed(f"The token may not write to {repo_id} (403): it needs the right to write there.")
        if code == 413 or code == 507:
            return PushFailed(f"The hub has no room for it ({code}).")
        return PushFailed(f"The hub refused ({code}): {_without_token(_first_line(error))}")
    # Which library the hub's client speaks HTTP with is its own affair, and changes with its version.
    if isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "requests")):
        return PushFailed(f"The hub cannot be reached ({type(error).__name__}). Check the network and its proxy.")
    return PushFailed(f"Pushing to {repo_id} failed: {type(error).__name__}: {_without_token(_first_line(error))}")


def _first_line(error: Exception) -> str:
    lines: list[Any] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return str(lines[0])[:300] if lines else type(error).__name__


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text
