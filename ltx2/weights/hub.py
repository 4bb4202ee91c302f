"""Files of a repository on the Hugging Face Hub, fetched whole or not at all.

A download grows in `.download` beside its target and goes on from there after an interruption;
the Hub's own function starts anew. It gets its name when its digest has been compared.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError, nearest

log = logging.getLogger(__name__)

HUB = "https://huggingface.co"
PARTS = ".download"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHUNK = 1 << 22


@dataclass(frozen=True)
class RemoteFile:
    """A file at one commit. `digest` is a SHA-256 or, for small files, git's SHA-1 of the blob."""

    repo: str
    path: str
    revision: str
    size: int
    digest: str

    @property
    def name(self) -> str:
        return f"{self.repo}/{self.path}"


def endpoint() -> str:
    """The server: HF_ENDPOINT, or the public Hub."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def is_offline() -> bool:
    """Whether the environment forbids the Hub's library to use the network."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def listing(repo: str) -> dict[str, RemoteFile]:
    """All files of a repository's newest commit by path. Raises UserError."""
    api = _library().HfApi(endpoint=endpoint())
    with _explained(repo, "the list of its files"):
        content = api.model_info(repo, files_metadata=True)
    files = {}
    for item in content.siblings or []:
        digest = item.lfs.sha256 if item.lfs is not None else item.blob_id
        size = item.size if item.size is not None else 0
        files[item.rfilename] = RemoteFile(repo, item.rfilename, content.sha, size, digest or "")
    return files


def remote_file(files: dict[str, RemoteFile], repo: str, path: str) -> RemoteFile:
    """The file of a listing. Raises MissingFile with the nearest name."""
    if path not in files:
        hint = nearest(path, files)
        raise MissingFile(f"{repo} on the Hub has no file {path}{hint}; check model.files")
    return files[path]


def part_path(file: RemoteFile, target: Path) -> Path:
    """Where the download grows; another content of the same name has another one."""
    return target.parent / PARTS / f"{target.name}.{file.digest[:12]}.part"


def missing_bytes(file: RemoteFile, target: Path) -> int:
    """What is still to be fetched."""
    if _is_there(file, target):
        return 0
    part = part_path(file, target)
    return file.size - min(part.stat().st_size, file.size) if part.is_file() else file.size


def fetch(file: RemoteFile, target: Path, advance: Callable[[int], None]) -> None:
    """Bring `file` to `target`; `advance` is told the bytes as they come.

    Processes that want the same target wait for each other. Raises UserError; what has come until
    then is kept, unless it is wrong.
    """
    part = part_path(file, target)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        if _is_there(file, target):
            return
        _transfer(file, part, advance)
        _verify(file, part)
        part.replace(target)


def _is_there(file: RemoteFile, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == file.size


def _transfer(file: RemoteFile, part: Path, advance: Callable[[int], None]) -> None:
    _library()
    from huggingface_hub.file_download import hf_hub_url, http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(file.repo, file.path, revision=file.revision, endpoint=endpoint())
    ticks: Any = _Ticks(advance)
    with _explained(file.repo, file.path, part), part.open("ab") as out:
        if out.tell() > file.size:
            out.truncate(0)
        http_get(
            url,
            out,
            resume_size=part.stat().st_size,
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.path,
            tqdm_class=ticks,
        )


def _verify(file: RemoteFile, part: Path) -> None:
    """Compare with the digest the Hub states; wrong bytes are not worth keeping."""
    if not file.digest:
        return
    begins = b"" if len(file.digest) == 64 else f"blob {file.size}\0".encode()
    found = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(begins)
    with part.open("rb") as content:
        while chunk := content.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != file.digest:
        part.unlink()
        raise UserError(
            f"{file.name} arrived damaged: its digest is {found.hexdigest()[:12]}..., the Hub"
            f" states {file.digest[:12]}...; nothing of it was kept, download it again"
        )


class _Ticks:
    """Stands where the Hub's library makes its progress bar."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def __call__(self, **_: Any) -> _Ticks:
        return self

    def __enter__(self) -> _Ticks:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: float) -> None:
        self._advance(int(count))


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(target.parent / PARTS / f"{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is downloading %s; waiting for it", target.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            "downloading needs the package huggingface_hub; pip install 'ltx2[hub]'"
        ) from None
    return huggingface_hub


@contextmanager
def _explained(repo: str, what: str, part: Path | None = None) -> Iterator[None]:
    """Turn what the library and the disk raise into one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    # The library has changed its HTTP client before: take the client's base of its own errors.
    client_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except UserError:
        raise
    except HfHubHTTPError as error:
        raise UserError(_refusal(error, repo, what)) from error
    except (OSError, client_error) as error:
        kept = ""
        if part is not None and part.is_file():
            kept = f"; {part.stat().st_size:,} bytes are kept, run the command again to go on"
        if isinstance(error, OSError) and error.errno in _FULL:
            raise UserError(f"disk full while downloading {repo}/{what}{kept}") from error
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        where = f"{repo}: {what} could not be fetched from {endpoint()}"
        raise UserError(f"{where} ({reason}){kept or '; check the network'}") from error


def _refusal(error: Any, repo: str, what: str) -> str:
    from huggingface_hub import get_token
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    page = f"{endpoint()}/{repo}"
    login = "log in with 'hf auth login' or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        if get_token():
            return f"{repo} is gated and your token may not read it yet; accept its licence: {page}"
        return f"{repo} is gated: accept its licence at {page}, then {login}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo} is not on the Hub, or private: check the name at {page}, or {login}"
    if isinstance(error, EntryNotFoundError):
        return f"{repo} has no file {what}; see {page}"
    status = error.response.status_code
    if status in (401, 403):
        return f"{repo}: the Hub refused {what} ({status}); see its licence at {page}, and {login}"
    return f"{repo}: the Hub answered {status} for {what}; try again later"
