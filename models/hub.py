"""Weights from the Hugging Face hub, pinned to a commit, and clear errors for what goes wrong there."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import errors as hub
from huggingface_hub import snapshot_download

from models.errors import ModelError

MISSING = (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError)
UNREACHABLE = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HfHubHTTPError, ConnectionError, TimeoutError)


def is_path(model: str) -> bool:
    """Whether a model's name is a directory or file on this machine: it starts with / or a dot."""
    return model.startswith(("/", "."))


def snapshot(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Download (or find in the cache) the files of ``repository`` at ``revision`` that match ``patterns``.

    Raises:
        ModelError: weights_missing, weights_gated or hub_unreachable.
    """
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise explain_hub_error(error, f"{repository} at revision {revision}") from error


def explain_hub_error(error: BaseException, what: str, field: str = "") -> ModelError:
    """The ModelError for an exception of a loader, by the first known cause in its chain."""
    chain = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(item, hub.GatedRepoError) for item in chain):
        return ModelError(
            "weights_gated",
            f"{what} is gated: its owner must grant access",
            "accept its terms on its page and set HF_TOKEN where the workers run",
            field,
        )
    # A missing repository is an HTTP error too, so this comes before unreachable.
    if any(isinstance(item, MISSING) for item in chain):
        return ModelError("weights_missing", f"{what} was not found: {error}", "check the name and revision", field)
    if any(isinstance(item, UNREACHABLE) or type(item).__module__.startswith(("httpx", "httpcore")) for item in chain):
        return ModelError(
            "hub_unreachable",
            f"{what} could not be downloaded: the hub cannot be reached and the local cache does not hold it",
            "download it where there is a network and give the directory instead, or retry later",
            field,
        )
    return ModelError("weights_missing", f"{what} could not be loaded: {error}", "check the files", field)
