"""Showing the pages while runs go on: a small HTTP server on this machine only."""

from __future__ import annotations

import hashlib
import logging
import re
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from ltx2.errors import UserError
from ltx2.experiment.dashboard.index_data import index_data
from ltx2.experiment.dashboard.page import PAGE, index_page, script_json, stamp, sweep_page
from ltx2.experiment.dashboard.sweep_data import sweep_data

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
DATA = "data.json"
TYPES = {
    ".html": "text/html; charset=utf-8", ".json": "application/json", ".mp4": "video/mp4",
    ".webm": "video/webm", ".gif": "image/gif", ".png": "image/png", ".wav": "audio/wav",
    ".jsonl": "text/plain; charset=utf-8", ".yaml": "text/plain; charset=utf-8",
    ".log": "text/plain; charset=utf-8",
}  # fmt: skip
_CHUNK_BYTES = 1 << 18


def open_server(root: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of `root` (an outputs folder or a sweep) on 127.0.0.1, ready for serve_forever.

    Port 0 takes a free one. Pages and data.json are made when asked for; other files are served
    when they lie below `root` and have one of the suffixes of `TYPES`.
    """
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(_Handler, root.resolve()))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {ADDRESS}:{port}: {reason}; choose another --port (0: a free one)"
        ) from error


def page_url(server: ThreadingHTTPServer) -> str:
    """Address of the root's page."""
    return f"http://{ADDRESS}:{server.server_address[1]}/{PAGE}"


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte that a Range header asks of a file; None for the whole.

    Raises ValueError when no byte of the file is in the range. Several ranges count as none.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    if match.group(1) == "":
        first, last = max(0, size - int(match.group(2))), size - 1
    else:
        first = int(match.group(1))
        last = min(int(match.group(2)), size - 1) if match.group(2) else size - 1
    if first > last:
        raise ValueError(f"range {header} is outside of {size} bytes")
    return first, last


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of pages, data and media below one folder."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ltx2", ""

    def __init__(self, root: Path, *arguments: Any) -> None:
        self.root = root
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer with a page, its data, or a file."""
        # Another site's script could reach this server under a name of its own.
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in (ADDRESS, "localhost"):
            return self._refuse(HTTPStatus.FORBIDDEN)
        path = self._path()
        if path is None:
            return self._refuse(HTTPStatus.NOT_FOUND)
        try:
            if path.name in (PAGE, DATA) and self._generated(path):
                return None
            if path.is_file() and path.suffix.lower() in TYPES:
                return self._file(path)
        except UserError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return None
        return self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are of no interest except for debugging."""
        log.debug(format, *arguments)

    def _path(self) -> Path | None:
        """The file asked for; None when it is outside of the root or hidden."""
        parts = [part for part in unquote(urlsplit(self.path).path).split("/") if part]
        if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            return None
        path = self.root.joinpath(*parts)
        try:
            if not path.resolve().is_relative_to(self.root):
                return None
        except OSError:
            return None
        return path if parts and path.suffix else path / PAGE

    def _generated(self, path: Path) -> bool:
        folder = path.parent
        is_sweep = (folder / "plan.json").is_file()
        if not is_sweep and folder != self.root:
            return False
        if path.name == PAGE:
            if is_sweep:
                page = sweep_page(folder, live=True, alone=folder == self.root)
            else:
                page = index_page(folder, live=True)
            self._text(page, TYPES[".html"])
        else:
            data = sweep_data(folder) if is_sweep else index_data(folder)
            self._text(script_json(data), TYPES[".json"], extra=script_json(stamp(live=True)))
        return True

    def _text(self, text: str, kind: str, extra: str = "") -> None:
        """Send `text`, or 304 when the client has it; `extra`, the time, is no part of that."""
        tag = '"' + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32] + '"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        if extra:
            text = f"{text[:-1]},{extra[1:]}"
        body = text.encode("utf-8", "replace")
        self._headers(
            HTTPStatus.OK, kind, len(body), [("ETag", tag), ("Cache-Control", "no-cache")]
        )
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, path: Path) -> None:
        kind, size = TYPES[path.suffix.lower()], path.stat().st_size
        try:
            asked = byte_range(self.headers.get("Range"), size)
        except ValueError:
            return self._refuse(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, ("Content-Range", f"bytes */{size}")
            )
        first, last = asked or (0, size - 1)
        more = [("Accept-Ranges", "bytes"), ("Cache-Control", "no-cache")]
        if asked:
            more.append(("Content-Range", f"bytes {first}-{last}/{size}"))
        status = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
        with path.open("rb") as file:
            self._headers(status, kind, last - first + 1, more)
            if self.command == "GET":
                file.seek(first)
                self._copy(file, last - first + 1)

    def _copy(self, file: BinaryIO, count: int) -> None:
        while count > 0 and (chunk := file.read(min(count, _CHUNK_BYTES))):
            self.wfile.write(chunk)
            count -= len(chunk)
        if count:
            self.close_connection = True  # the file shrank: fewer bytes than announced

    def _headers(
        self, status: HTTPStatus, kind: str, length: int, more: list[tuple[str, str]]
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in more:
            self.send_header(name, value)
        self.end_headers()

    def _refuse(self, status: HTTPStatus, *more: tuple[str, str]) -> None:
        self._headers(status, "text/plain; charset=utf-8", 0, list(more))
