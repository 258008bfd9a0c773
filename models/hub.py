"""Weights from the Hugging Face hub, pinned to a commit, and clear errors for what goes wrong there."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub import errors as hub

from models.errors import ModelError, causes, full_disk

MISSING = (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError)
REFUSED = (401, 403)
UNREACHABLE = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HfHubHTTPError, ConnectionError, TimeoutError)


def is_path(model: str) -> bool:
    """Whether a model's name is a directory or file on this machine: it starts with / or a dot."""
    return model.startswith(("/", "."))


def snapshot(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Download (or find in the cache) the files of ``repository`` at ``revision`` that match ``patterns``.

    Raises:
        ModelError: weights_missing, weights_gated, hub_unreachable or disk_full.
    """
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise explain_hub_error(error, f"{repository} at revision {revision}") from error


def explain_hub_error(error: BaseException, what: str, field: str = "") -> ModelError:
    """The ModelError for an exception of a loader, by the first known cause in its chain."""
    chain = causes(error)
    # This machine's own trouble first: loaders wrap it in errors of their own about files that are not there.
    if full_disk(error):
        return ModelError(
            "disk_full",
            f"{what} could not be stored: no space is left",
            f"free some space in {constants.HF_HUB_CACHE}, or set HF_HOME to a folder on a larger disk",
            field,
        )
    if denied := next((item for item in chain if isinstance(item, PermissionError)), None):
        return ModelError(
            "weights_missing",
            f"{what} could not be loaded: {denied}",
            f"let the workers' user read it and write in the cache, {constants.HF_HUB_CACHE}, or set HF_HOME",
            field,
        )
    gated = any(isinstance(item, hub.GatedRepoError) for item in chain)
    # A repository that is missing, or hidden from strangers, is an HTTP error too: before refused and unreachable.
    if not gated and any(isinstance(item, MISSING) for item in chain):
        return ModelError(
            "weights_missing",
            f"{what} was not found: {error}",
            "check the name and revision; a private repository needs HF_TOKEN where the workers run",
            field,
        )
    if gated or any(isinstance(item, hub.HfHubHTTPError) and item.response.status_code in REFUSED for item in chain):
        return ModelError(
            "weights_gated",
            f"the hub refuses access to {what}: its owner must grant it",
            "accept its terms on its page and set a valid HF_TOKEN where the workers run",
            field,
        )
    if any(isinstance(item, UNREACHABLE) or type(item).__module__.startswith(("httpx", "httpcore")) for item in chain):
        return ModelError(
            "hub_unreachable",
            f"{what} could not be downloaded: the hub cannot be reached and the local cache does not hold it",
            "download it where there is a network and give the directory instead, or retry later",
            field,
        )
    return ModelError("weights_missing", f"{what} could not be loaded: {error}", "check the files", field)
