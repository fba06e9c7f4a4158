"""Models of the Hugging Face hub, and what its cache holds. No code of a repository is fetched or run."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path

from stagescope.engine.catalog import lookup, similar
from stagescope.engine.directory import check
from stagescope.engine.progress import Report, quiet, timed
from stagescope.engine.protocol import EngineError
from stagescope.text import printable

TEXTS = (
    "config.json", "generation_config.json", "tokenizer*", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model", "special_tokens_map.json", "added_tokens.json", "chat_template*",
)
SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json")


def snapshot(repo_id: str, offline: bool, newest: bool, report: Report = quiet) -> Path:
    """The directory of a model in the Hugging Face cache, fetched if it is not there whole, unless `offline`.

    A model that is there is taken as it is, without a look at the network, unless `newest`. HF_HUB_OFFLINE,
    HF_TOKEN, HF_HOME and HF_ENDPOINT count as ever. Raises EngineError("missing"), and what `report` raises.
    """
    from huggingface_hub import constants

    offline = offline or constants.HF_HUB_OFFLINE
    if offline or not newest:
        try:
            directory = _download(repo_id, local_files_only=True)
            check(directory)  # other programs may have fetched the config alone
            return directory
        except EngineError:
            if offline:
                raise _not_here(repo_id) from None
    directory = _download(repo_id, local_files_only=False, report=report)
    try:
        check(directory)
    except EngineError as error:
        raise EngineError(
            "missing",
            f"The model {printable(repo_id)} of the Hugging Face hub cannot be used: {error.failure.message}",
            f"If files are cut short delete {printable(str(directory.parent.parent))} and try again; "
            "else give another model.",
        ) from error
    return directory


def _download(repo_id: str, local_files_only: bool, report: Report = quiet) -> Path:
    from huggingface_hub import errors, snapshot_download

    def fetch(*patterns: str) -> Path:
        bar = _byte_bar(timed(report, f"fetching {repo_id} from the Hugging Face hub"))
        return Path(
            snapshot_download(
                repo_id, allow_patterns=list(patterns), local_files_only=local_files_only, tqdm_class=bar
            )
        )

    try:
        directory = fetch(*TEXTS, *SAFETENSORS)
        if not any(directory.glob("model*.safetensors")):
            directory = fetch(*TEXTS, *PICKLED)
    except (errors.HTTPError, errors.EntryNotFoundError, OSError, ValueError) as error:
        raise _failure(repo_id, error) from error
    return directory


def _byte_bar(at: Callable[[float], None]) -> type:
    """A tqdm class that draws nothing and reports the fraction of the bytes that have come."""
    from tqdm import tqdm

    class ByteBar(tqdm):
        monitor_interval = 0  # no thread

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"file": io.StringIO(), "disable": False})

        def update(self, n=1):
            super().update(n)
            if self.unit == "B" and self.total:
                at(min(self.n / self.total, 1.0))

    return ByteBar


def _not_here(repo_id: str) -> EngineError:
    return EngineError(
        "missing",
        f"The model {printable(repo_id)} is not on this machine, or not all of it, and fetching it is "
        "forbidden (--offline or HF_HUB_OFFLINE).",
        f"Run `stagescope models pull {printable(repo_id)}` once with a network.",
    )


def _failure(repo_id: str, error: Exception) -> EngineError:
    from huggingface_hub import errors

    model = f"The model {printable(repo_id)}"
    # Without a cached copy the hub's client raises "not in the cache", caused by what really happened.
    cause = (isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__) or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return _not_here(repo_id)
    if isinstance(cause, errors.GatedRepoError) or status == 403:
        return EngineError(
            "missing",
            f"{model} is gated: the Hugging Face hub gives it only to those who accepted its terms.",
            "Accept them on the model's page, then run `hf auth login` or set HF_TOKEN.",
        )
    if isinstance(cause, errors.RepositoryNotFoundError) or status in (401, 404):
        close = " or ".join(similar(repo_id))
        return EngineError(
            "missing",
            f"{model} is not at the Hugging Face hub, or is private.",
            f"Did you mean {close}?" if close else "Check the id; for a private model set HF_TOKEN.",
        )
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return EngineError("error", f"{model} does not fit: the disk is full.", "Make room.")
    if isinstance(cause, errors.HFValidationError):
        return EngineError("missing", f"{model} has no id of the hub.", "An id is written org/name.")
    words = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    said = f"it answered {status}" if status else printable(words)
    return EngineError(
        "missing",
        f"{model} cannot be fetched from the Hugging Face hub: {said}.",
        "Check the network and HF_ENDPOINT, or give a model that is on this machine.",
    )


def cached() -> list[tuple[str, Path, int, str]]:
    """(name, directory, bytes on disk, note) of the models in the Hugging Face cache, by repository."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):  # no cache, or something else in its place
        return []
    found = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        revisions = sorted(repository.revisions, key=lambda revision: revision.last_modified)
        if repository.repo_type != "model" or not revisions:
            continue
        directory = Path(revisions[-1].snapshot_path)
        known = lookup(repository.repo_id)
        try:
            check(directory)
            note = "Hugging Face cache"
        except EngineError as error:
            note = f"Hugging Face cache, not whole: {error.failure.message}"
        found.append((known.name if known else repository.repo_id, directory, repository.size_on_disk, note))
    return found
