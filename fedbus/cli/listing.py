"""Clients and models, as lists and one by one; and a model's way into a file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from fedbus.access import known
from fedbus.access.signing import WorkspaceModels, credentials_at
from fedbus.cli.output import ago, line_of, print_json, print_table, size
from fedbus.cli.roles import Place
from fedbus.errors import BadMessage
from fedbus.federation.service import Federation, connect
from fedbus.federation.verifying import DIGEST, SIGNATURE, VERSION, WORKSPACE, verified_file
from fedbus.messages.records import ModelPublished
from fedbus.tensors.codec import Buffer
from fedbus.tensors.digest import Hasher
from fedbus.tensors.files import FileWriter


@asynccontextmanager
async def federation_of(place: Place) -> AsyncIterator[Federation]:
    """Connect to the federation at a place."""
    async with connect(
        place.url, credentials=place.credentials, workspace=place.workspace, store=place.store
    ) as federation:
        yield federation


async def list_clients(place: Place, *, json: bool) -> None:
    """Print who is there."""
    async with federation_of(place) as federation:
        clients = sorted(await federation.clients(), key=lambda seen: seen.name)
    if json:
        print_json(clients)
        return
    rows = [
        (
            seen.name,
            seen.doing or "-",
            ago(seen.seen_at, federation.now),
            ago(seen.since_at, federation.now),
            " ".join(f"{key}={value}" for key, value in sorted(seen.attributes.items())) or "-",
            seen.version,
        )
        for seen in clients
    ]
    columns = ("client", "doing", "heard", "came", "attributes", "fedbus")
    print_table(columns, rows, empty="no clients are there; start one: fedbus client run MODULE:APP --name NAME")


async def download(place: Place, version: str, output: Path | None, *, json: bool) -> None:
    """Stream a version into a file; the file gets its name when all has come and the digest is right."""
    async with federation_of(place) as federation:
        version = await federation.registry.resolve(version)
        entry = await federation.models.find(version)
        spec = await federation.models.spec(version)
        path = output or Path(f"{version}.safetensors")
        metadata = {VERSION: entry.version, DIGEST: entry.digest}
        if entry.signature:
            metadata |= {SIGNATURE: entry.signature, WORKSPACE: place.workspace}
        hasher = Hasher()
        with FileWriter(path, spec, metadata) as file:
            async for chunk in _with_progress(federation, entry):
                await asyncio.to_thread(hasher.update, chunk)
                await asyncio.to_thread(file.write, chunk)
            found = hasher.hexdigest()
            if found != entry.digest:
                raise BadMessage(
                    f"model {version}: expected the digest {entry.digest}, got {found}; nothing was written"
                )
    if json:
        print_json({"version": version, "file": str(path), "nbytes": entry.nbytes, "digest": found})
    else:
        print(f"{path}: {size(entry.nbytes)}, digest {found} (checked)")


async def verify_model(place: Place, model: str, signature: str, *, json: bool) -> bool:
    """Look whether a version, or a downloaded file, is what its workspace has signed; returns whether it is."""
    path = Path(model)
    if path.suffix == ".safetensors" or await asyncio.to_thread(path.is_file):
        where: str | Path | None = place.credentials
        where = where or await asyncio.to_thread(known.find, place.url, place.workspace)
        credentials = await asyncio.to_thread(credentials_at, where)
        trust = credentials.trust if credentials is not None and credentials.trust.model_key else None
        found = await asyncio.to_thread(
            verified_file, WorkspaceModels(trust) if trust is not None else None, path, signature
        )
    else:
        async with federation_of(place) as federation:
            found = await federation.models.verify(await federation.registry.resolve(model))
    if json:
        print_json({**asdict(found), "genuine": found.is_genuine})
    elif found.is_genuine:
        print(f"{found.version}: signed by workspace {place.workspace}, digest {found.digest}")
    else:
        print(line_of(found.why), file=sys.stderr)
    return found.is_genuine


async def _with_progress(federation: Federation, entry: ModelPublished) -> AsyncIterator[Buffer]:
    """Yield the checked chunks; on a terminal a bar shows how far it is."""
    if not sys.stderr.isatty():
        async for chunk in federation.models.chunks(entry.version):
            yield chunk
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    with Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("download", total=entry.nbytes)
        async for chunk in federation.models.chunks(entry.version):
            yield chunk
            bar.advance(task, len(chunk))
