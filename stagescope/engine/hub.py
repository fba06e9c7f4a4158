"""Models of the Hugging Face hub, and what its cache holds. No code of a repository is fetched or run."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
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
BUSY = (429, 500, 502, 503, 504)  # statuses after which the same question may have an answer
WAITS = (1.0, 3.0)  # seconds before it is asked again
CHUNK = 2**20  # bytes after which a download sees that it is not wanted; the client's own 10 MiB may take minutes


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
    """Texts and weights of a model, .bin files only where there are no safetensors.

    Whole files are kept, whatever happens to the others. A connection that is cut is taken up where it broke (a Range
    request) within the same try; a try that ends throws half a file away (huggingface_hub 2.4).
    """
    from huggingface_hub import constants, errors, snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what is wrong is said here
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    fetched = Fetched()

    def fetch(*patterns: str) -> Path:
        for seconds in (*WAITS, None):
            try:
                return Path(
                    snapshot_download(
                        repo_id,
                        allow_patterns=list(patterns),
                        local_files_only=local_files_only,
                        tqdm_class=_byte_bar(fetched),
                    )
                )
            except (errors.HTTPError, errors.LocalEntryNotFoundError) as error:
                if seconds is None or _status(_cause(error)) not in BUSY or fetched.unwanted.wait(seconds):
                    raise

    def work() -> Path:
        directory = fetch(*TEXTS, *SAFETENSORS)
        return directory if any(directory.glob("model*.safetensors")) else fetch(*TEXTS, *PICKLED)

    try:
        return _beside(work, fetched, timed(report, f"fetching {repo_id} from the Hugging Face hub"))
    except (errors.HTTPError, errors.EntryNotFoundError, OSError, ValueError) as error:
        raise _failure(repo_id, error) from error


class Fetched:
    """What a download and who waits for it tell each other."""

    def __init__(self) -> None:
        self.fraction = 0.0  # of the bytes
        self.unwanted = threading.Event()


def _beside(work: Callable[[], Path], fetched: Fetched, at: Callable[[float], None]) -> Path:
    """What `work` returns or raises, from a thread beside this one. Ctrl-C and what `at` raises end the waiting.

    The client's own threads know no interrupt, and leaving them waits for the last byte.
    """
    found: Future[Path] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # carried over to who waits
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while not found.done():
            wait([found], timeout=0.1)
            at(fetched.fraction)
        return found.result()
    finally:
        fetched.unwanted.set()


class Unwanted(Exception):
    """Ends a thread of the client."""


def _byte_bar(fetched: Fetched) -> type:
    """A tqdm class that draws nothing, notes the fraction of the bytes that have come, and ends what is unwanted."""
    from tqdm import tqdm

    class ByteBar(tqdm):
        monitor_interval = 0  # no thread

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"file": io.StringIO(), "disable": False})

        def update(self, n=1):
            if fetched.unwanted.is_set():
                raise Unwanted
            super().update(n)
            if self.unit == "B" and self.total:
                fetched.fraction = min(self.n / self.total, 1.0)

    return ByteBar


def _not_here(repo_id: str) -> EngineError:
    return EngineError(
        "missing",
        f"The model {printable(repo_id)} is not on this machine, or not all of it, and fetching it is "
        "forbidden (--offline or HF_HUB_OFFLINE).",
        f"Run `stagescope models pull {printable(repo_id)}` once with a network.",
    )


def _cause(error: Exception) -> BaseException:
    """Without a cached copy the hub's client raises "not in the cache", caused by what really happened."""
    from huggingface_hub import errors

    return (isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__) or error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _failure(repo_id: str, error: Exception) -> EngineError:
    from huggingface_hub import errors

    model = f"The model {printable(repo_id)}"
    cause = _cause(error)
    status = _status(cause)
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
