"""The files of the page and of the viewer of the document: what stands there when the gateway starts, from memory.

All of it is less than a few hundred KB, and packed once when the gateway starts: the page comes in less than half of
that. An address is looked up in a table, so no path can lead anywhere else. Each file has a strong ETag; a browser
asks whether it has changed and is told 304.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from aiohttp import web

from fedbus.gateway.answers import is_known

INDEX = "index.html"

MEDIA = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}
"""By suffix, whatever the machine's own table says: with nosniff a wrong one is not run."""


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is sent.

    ``packed``: by gzip, empty where that gains nothing; a strong tag is of bytes, so that it has one of its own.
    """

    data: bytes
    media: str
    tag: str
    packed: bytes = b""
    packed_tag: str = ""


def files_under(directory: Traversable, before: str = "") -> Mapping[str, File]:
    """Return the files of a directory by their path in it; none where there is no such directory."""
    found: dict[str, File] = {}
    if not directory.is_dir():
        return found
    for entry in directory.iterdir():
        if entry.name.startswith((".", "__")):
            continue
        path = f"{before}{entry.name}"
        if entry.is_dir():
            found |= files_under(entry, f"{path}/")
        else:
            found[path] = _file(entry)
    return found


def _file(entry: Traversable) -> File:
    data = entry.read_bytes()
    suffix = entry.name[entry.name.rfind(".") :]
    media = MEDIA.get(suffix) or mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
    digest, packed = hashlib.blake2b(data, digest_size=12).hexdigest(), gzip.compress(data, mtime=0)
    gains = len(packed) < len(data)
    return File(data, media, f'"{digest}"', packed if gains else b"", f'"{digest}-gzip"' if gains else "")


def takes_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` names gzip, and not with a weight of nothing."""
    for each in accepted.lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() in {"gzip", "*"}:
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False


class Files:
    """Answers with the files of a directory beside this module: its index at an address, the others below another."""

    def __init__(self, directory: str, index: str, below: str, files: Mapping[str, File] | None = None) -> None:
        found = files_under(resources.files("fedbus.gateway") / directory) if files is None else files
        self._files = {index if path == INDEX else f"{below}/{path}": file for path, file in found.items()}

    def add_to(self, app: web.Application) -> None:
        """Give the files their addresses."""
        for address in self._files:
            app.router.add_get(address, self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        file = self._files[request.path]
        packed = bool(file.packed) and takes_gzip(request.headers.get("Accept-Encoding", ""))
        headers = {
            "ETag": file.packed_tag if packed else file.tag,
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
        }
        if is_known(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        charset = "utf-8" if file.media.startswith("text/") else None
        body = file.packed if packed else file.data
        return web.Response(body=body, headers=headers, content_type=file.media, charset=charset)
