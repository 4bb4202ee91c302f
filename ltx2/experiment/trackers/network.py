"""Whether a server answers, asked quickly before a library would try for long."""

from __future__ import annotations

import netrc
import os
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

PROBE_SECONDS = 2.0
_PORTS = {"http": 80, "https": 443}


def unreachable(url: str) -> str | None:
    """Why no connection to the server of `url` (or its proxy) comes about; None if one does."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"{host}:{port} cannot be reached ({reason})"
    return None


def has_login(host: str) -> bool:
    """Whether the user's netrc file has a password for `host`."""
    named = os.environ.get("NETRC")
    paths = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    for path in paths:
        try:
            if path.is_file() and netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return False
