"""A store in a bucket of S3, or of anything that speaks its protocol (MinIO, Ceph, Garage, R2, ...), through `obstore`.

    s3://BUCKET/PREFIX?region=eu-central-1
    s3://BUCKET/PREFIX?endpoint=http://127.0.0.1:9000&path_style=true

Credentials come as everywhere with S3: by ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, a web identity, a
container's or an instance's role. They are read by the client itself; a URL is no place for them.

What fits into one part is one request, anything larger a multipart upload: a bucket shows either when it is complete,
not before. An upload that was cut short is aborted; where the process was killed its parts stay, invisible and billed,
until the bucket's lifecycle rule for incomplete uploads removes them: set one. Reading asks for ranges, one ahead, each
of the same content as the first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from fedbus.bus.base import Payload
from fedbus.errors import ConfigError, NotFound, StoreDenied, StoreUnavailable
from fedbus.store.objects.base import ObjectInfo, StoreKind, check_key, check_range

try:
    import obstore
    from obstore import exceptions
    from obstore.store import S3Store as Bucket
except ImportError as missing:
    raise ConfigError("store s3: it needs obstore: pip install 'fedbus[s3]'") from missing

PART_BYTES = 8 * 2**20
"""Of an upload: S3 wants 5 MiB and more, and four are under way at once."""

PARTS_MAX = 9_000
"""S3 takes 10,000; an estimate of the size may be a little short."""

UPLOADS = 4
"""Parts under way at once: 32 MiB of memory."""

RANGE_BYTES = 8 * 2**20
"""Asked for in one request: long enough that its round trip does not count, short enough for the client's timeout."""

REQUEST_S_MAX = 60.0
"""One request of 8 MiB: a line of 1.2 Mbit/s is slow, one that takes longer is broken."""

RETRIES_S_MAX = 10.0
"""How long a request is repeated before we say that the store is away: whoever called waits, and calls again."""

OPTIONS = {"endpoint", "region", "path_style"}


class S3Store:
    """Objects of a bucket, below a prefix."""

    def __init__(self, url: str, bucket: Bucket, prefix: str) -> None:
        """Use a client that is configured."""
        self._url = url
        self._bucket = bucket
        self._prefix = prefix

    @property
    def url(self) -> str:
        """As it was given: there is nothing secret in it."""
        return self._url

    async def put(self, key: str, pieces: AsyncIterable[Payload], *, nbytes: int = 0) -> ObjectInfo:
        """Write an object, in parts where it does not fit into one."""
        path = self._path(key)
        part_bytes = max(PART_BYTES, -(-nbytes // PARTS_MAX))
        source = _Source(pieces)
        first = await source.take(part_bytes)
        with _translated(key, self._url, writes=True):
            try:
                if len(first) < part_bytes:
                    await obstore.put_async(self._bucket, path, first, use_multipart=False)
                else:
                    parts = source.parts(first, part_bytes)
                    await obstore.put_async(
                        self._bucket,
                        path,
                        parts,
                        use_multipart=True,
                        chunk_size=part_bytes,
                        max_concurrency=UPLOADS,
                    )
            except Exception:
                if source.error is not None:
                    raise source.error from None  # what the pieces raised, not what the client made of it
                raise
        return await self.head(key)

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[Payload]:
        """Ask for ranges, one ahead; where another object was put meanwhile, `StoreUnavailable`."""
        check_range(start, stop)
        path = self._path(key)
        size, tag = await self._about(key, path)
        end = size if stop is None else min(stop, size)
        ahead: asyncio.Task[Payload] | None = None
        try:
            for at in range(start, end, RANGE_BYTES):
                wanted = ahead or asyncio.create_task(self._range(key, path, (at, end, size), tag))
                behind = at + RANGE_BYTES
                more = self._range(key, path, (behind, end, size), tag) if behind < end else None
                ahead = asyncio.create_task(more) if more else None
                yield await wanted
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _about(self, key: str, path: str) -> tuple[int, str]:
        with _translated(key, self._url):
            meta = await obstore.head_async(self._bucket, path)
        return int(meta["size"]), meta.get("e_tag") or ""

    async def _range(self, key: str, path: str, bounds: tuple[int, int, int], tag: str) -> Payload:
        at, end, size = bounds
        last = min(at + RANGE_BYTES, end)
        with _translated(key, self._url):
            if last - at == size:  # some servers answer a range that is all of it without saying that it is one
                found = await obstore.get_async(self._bucket, path)
            else:
                found = await obstore.get_async(self._bucket, path, options={"range": (at, last)})
            data = await found.buffer_async()
        if (found.meta.get("e_tag") or "") != tag or len(data) != last - at:
            raise StoreUnavailable(f"{key}: another object was put in its place while it was read; read it again")
        return memoryview(data)

    async def head(self, key: str) -> ObjectInfo:
        """Ask for the object's head."""
        with _translated(key, self._url):
            meta = await obstore.head_async(self._bucket, self._path(key))
        return ObjectInfo(key, int(meta["size"]), meta["last_modified"].timestamp())

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """List what lies below the last ``/`` of the prefix."""
        top, _, _ = prefix.rpartition("/")
        if top:
            check_key(top)
        under = "/".join(filter(None, (self._prefix, top)))
        skip = len(self._prefix) + 1 if self._prefix else 0
        with _translated(prefix, self._url, writes=True):
            async for some in obstore.list(self._bucket, prefix=under or None):
                for meta in some:
                    key = meta["path"][skip:]
                    if key.startswith(prefix):
                        yield ObjectInfo(key, int(meta["size"]), meta["last_modified"].timestamp())

    async def remove(self, key: str) -> None:
        """Delete the object: S3 takes it for done where there is none."""
        with _translated(key, self._url), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._bucket, self._path(key))

    async def close(self) -> None:
        """Nothing is held that is not given back by itself."""

    def _path(self, key: str) -> str:
        return "/".join(filter(None, (self._prefix, check_key(key))))


class _Source:
    """Pieces as parts of one size; ``error``: what the pieces raised."""

    def __init__(self, pieces: AsyncIterable[Payload]) -> None:
        self._pieces = aiter(pieces)
        self._rest = bytearray()
        self.error: BaseException | None = None

    async def take(self, nbytes: int) -> bytes:
        """Return the next so many bytes, fewer at the end."""
        try:
            while len(self._rest) < nbytes:
                try:
                    self._rest += await anext(self._pieces)
                except StopAsyncIteration:
                    break
        except BaseException as error:
            self.error = error
            raise
        found = bytes(memoryview(self._rest)[:nbytes])
        del self._rest[:nbytes]
        return found

    async def parts(self, first: bytes, nbytes: int) -> AsyncIterator[bytes]:
        """Yield the first part, then the others."""
        part = first
        while part:
            yield part
            part = await self.take(nbytes)


@contextlib.contextmanager
def _translated(key: str, url: str, *, writes: bool = False) -> Iterator[None]:
    """Say what the client says in the words of a store. ``writes``: nothing there means that there is no bucket."""
    try:
        yield
    except FileNotFoundError as error:
        if writes:
            raise StoreUnavailable(f"{url}: there is no such bucket: {_short(error)}") from error
        raise NotFound(f"{key}: no such object") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
        raise StoreDenied(f"{url}: {key}: {_short(error)}") from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise StoreUnavailable(f"{url}: {key}: {_short(error)}") from error


def _short(error: BaseException) -> str:
    """Return the first line of what the client says: a dump of its structures follows."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _from_url(url: str, options: Mapping[str, str]) -> S3Store:
    parts = urlsplit(url)
    if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
        raise ConfigError("store s3: expected s3://BUCKET/PREFIX; credentials come by AWS_ACCESS_KEY_ID and its like")
    if unknown := options.keys() - OPTIONS:
        known = ", ".join(sorted(OPTIONS))
        raise ConfigError(f"store s3: unknown option {', '.join(sorted(unknown))} (known: {known})")
    prefix = unquote(parts.path).strip("/")
    if prefix:
        check_key(prefix)
    endpoint = options.get("endpoint", "")
    path_style = options.get("path_style", "true" if endpoint else "false")
    if path_style not in ("true", "false"):
        raise ConfigError(f"store s3: path_style: expected true or false, got {path_style!r:.80}")
    settings: dict[str, Any] = {"virtual_hosted_style_request": path_style == "false"}
    if endpoint:
        settings["endpoint"] = endpoint
    if endpoint or "region" in options:
        settings["region"] = options.get("region", "us-east-1")
    client = Bucket(
        parts.netloc,
        client_options={"allow_http": endpoint.startswith("http:"), "timeout": f"{REQUEST_S_MAX:g}s"},
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=RETRIES_S_MAX)},
        **settings,
    )
    return S3Store(url, client, prefix)


S3 = StoreKind("s3", _from_url)
