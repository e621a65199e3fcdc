"""Models: which versions there are, their arrays as a file, what is noted beside them, what goes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from fedbus.access.actions import Action
from fedbus.config.session import SessionConfig
from fedbus.errors import NotFound
from fedbus.federation.cards import card_of
from fedbus.federation.details import detail_of
from fedbus.federation.registered import Collection, ModelInfo
from fedbus.federation.registry import GRACE_S
from fedbus.gateway.catalogue import Asked, Place
from fedbus.gateway.content import MEDIA, send_content
from fedbus.gateway.hiding import hides
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, cursor_of, parts_of
from fedbus.gateway.problems import Refused
from fedbus.gateway.routes import stages
from fedbus.gateway.routes.rounds import report_of
from fedbus.gateway.routes.stages import registry_of
from fedbus.gateway.views import (
    Annotation,
    ArrayView,
    CollectionView,
    LineageView,
    ModelDetail,
    ModelView,
    Page,
    RetentionView,
)
from fedbus.messages.ids import NAME
from fedbus.messages.registry import NOTE_CHARS_MAX, REASON_CHARS_MAX

PIECE_BYTES = 2**20
"""Of an upload, at once."""

SILENT_S_MAX = 60.0
"""How long nothing may come of an upload: few are taken at once."""

OF_KEPT = Literal["kept", "archived", "retired", "removed"]


class ModelsAsked(Paged):
    """Which versions; newest first."""

    session: Annotated[str, Field(pattern=NAME)] | None = None
    """Those of one session."""

    stage: Annotated[str, Field(pattern=NAME)] | None = None
    """The one that a stage has."""

    text: Annotated[str, Field(max_length=200)] = ""
    """Part of a version's name or note, in any case."""

    kept: OF_KEPT | None = None
    """Where the arrays are."""


class Imported(BaseModel):
    """What a model is brought in as."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] | None = None
    """Its name, which must be new and not end in `-NUMBER`; made up where there is none."""

    note: Annotated[str, Field(max_length=NOTE_CHARS_MAX)] = ""
    """What is noted beside it."""


class Grace(BaseModel):
    """When the arrays go."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grace_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = GRACE_S
    """Seconds until then: who has begun to read a version may go on."""


class Removed(Grace):
    """Why a version goes, and when."""

    reason: Annotated[str, Field(max_length=REASON_CHARS_MAX)] = ""
    """Why."""


class Collected(Grace):
    """What a collection is to do."""

    dry_run: bool = False
    """Change nothing; the answer says what would go."""


# --- versions ---


async def list_models(call: Call) -> Reply:
    """Versions, newest first."""
    query, catalogue = call.asked(ModelsAsked), call.gateway.catalogue
    await catalogue.wait()
    asked = Asked(query.session or "", query.stage or "", query.text, query.kept or "")
    before = None
    if query.cursor is not None:
        at, version = parts_of(query.cursor, float, str)
        before = Place(float(at), str(version))
    found, more = await catalogue.page(asked, before, query.limit)
    last = found[-1] if more else None
    return Page[ModelView](
        items=tuple(map(model_view, found)),
        next=cursor_of(float(last.at), last.version) if last is not None else None,
        total=len(catalogue) if asked == Asked() else None,
    )


async def get_model(call: Call) -> Reply:
    """A version: its arrays, its session's settings, who took part, what was made of it."""
    gateway, info = call.gateway, await _info(call)
    try:
        arrays = (await gateway.federation.models.spec(info.version)).arrays
    except NotFound:
        arrays = ()
    config: SessionConfig | None = None
    clients: tuple[str, ...] = ()
    if info.session:
        await gateway.sessions.wait()
        try:
            session = await gateway.sessions.info(info.session)
        except NotFound:
            session = None  # its journal is gone
        if session is not None:
            config = session.config
            report = await report_of(gateway, session, info.round) if info.round else None
            counted = [one.client for one in report.clients if one.outcome in ("counted", "stale")] if report else []
            clients = tuple(sorted(counted))
    return ModelDetail(
        **model_view(info).model_dump(),
        arrays=tuple(ArrayView(name=one.name, dtype=str(one.numpy), shape=one.shape) for one in arrays),
        config=config,
        clients=clients,
        children=gateway.catalogue.lineage.children(info.version),
    )


async def _info(call: Call) -> ModelInfo:
    """Return a version as it is now; what journals say of it is known here."""
    gateway, version = call.gateway, call.path["version"]
    await gateway.catalogue.wait()
    entry = await gateway.federation.models.entry(version)
    gateway.catalogue.enter(entry)
    return await gateway.catalogue.info(entry)


async def import_model(call: Call) -> Reply:
    """Bring a model in: the body is a safetensors or npz file, stored as it comes."""
    query, gateway = call.asked(Imported), call.gateway
    made_up = call.name_from_key("import") or f"import-{secrets.token_hex(6)}"
    version = query.version or f"{made_up}m"  # not a number: it would look like a session's
    async with _place(gateway.catalogue.importing, "models are being brought in"):
        nbytes_max = gateway.listening.import_bytes_max
        info = await registry_of(call).import_model(
            _body(call), version, query.note, key=call.key_digest, nbytes_max=nbytes_max
        )
    await gateway.catalogue.refresh(version)
    return model_view(info), {"Location": f"{API}/models/{version}"}


async def _body(call: Call) -> AsyncIterator[bytes]:
    """Yield the body as it comes; `Refused` with 413 where it is too large."""
    bytes_max = call.gateway.listening.import_bytes_max
    too_large = Refused(413, f"expected a model's file of at most {bytes_max} bytes")
    if (call.request.content_length or 0) > bytes_max:
        raise too_large
    came = 0
    while piece := await _piece(call):
        came += len(piece)
        if came > bytes_max:
            raise too_large
        yield piece


async def _piece(call: Call) -> bytes:
    """Return what comes next of a body, b'' at its end; `Refused` with 408 where nothing does: others wait."""
    try:
        async with asyncio.timeout(SILENT_S_MAX):
            return await call.request.content.read(PIECE_BYTES)
    except TimeoutError as error:
        raise Refused(408, f"nothing came of the body for {SILENT_S_MAX:g} s") from error


@asynccontextmanager
async def _place(places: asyncio.Semaphore, what: str) -> AsyncIterator[None]:
    if places.locked():
        raise Refused(503, f"as many {what} as this gateway does at once; ask again", headers={"Retry-After": "5"})
    async with places:
        yield


async def get_content(call: Call) -> Reply:
    """A version as a safetensors file, whole or in ranges; its digest is that of the model's bytes."""
    version = call.path["version"]
    async with _place(call.gateway.catalogue.downloading, "downloads run"):
        return await send_content(call.request, call.gateway.federation.models, version)


async def get_card(call: Call) -> Reply:
    """A version's card: what it is, how it was made and measured, how to load it, in Markdown."""
    gateway, info = call.gateway, await _info(call)
    catalogue, federation = gateway.catalogue, gateway.federation
    detail = await detail_of(federation, info, catalogue.lineage.children(info.version))
    line = [await catalogue.info(one) for one in catalogue.lineage.of(catalogue.lineage.entries[info.version])]
    if hides(call.caller):
        detail = replace(detail, clients=(), spread=())
    text = card_of(detail, line, federation.subjects.workspace)
    headers = {"Cache-Control": "no-cache"}
    return web.Response(text=text, content_type="text/markdown", charset="utf-8", headers=headers)


async def get_lineage(call: Call) -> Reply:
    """Where a version comes from and what was made of it: its session's versions, those before and those after."""
    catalogue = call.gateway.catalogue
    entry = await call.gateway.federation.models.entry(call.path["version"])
    await catalogue.wait()
    found = catalogue.lineage.of(entry)
    return LineageView(versions=tuple([model_view(await catalogue.info(one)) for one in found]))


async def annotate(call: Call) -> Reply:
    """Note something beside a version, in place of what was noted before."""
    version = call.path["version"]
    info = await registry_of(call).annotate(version, call.given(Annotation).note)
    await call.gateway.catalogue.refresh(version)
    return model_view(info)


async def remove_model(call: Call) -> Reply:
    """Remove a version's arrays, after a grace; refused where something needs it."""
    query, version = call.asked(Removed), call.path["version"]
    info = await registry_of(call).remove(version, query.reason, grace_s=query.grace_s)
    await call.gateway.catalogue.refresh(version)
    return model_view(info)


def model_view(info: ModelInfo) -> ModelView:
    """Return a version as REST shows it."""
    fields = {name: value for name, value in asdict(info).items() if name != "blob"}
    return ModelView(**{**fields, "removed_at": info.removed_at or None})


# --- what goes ---


async def get_retention(call: Call) -> Reply:
    """Of how many versions of each session a collection keeps the arrays."""
    return RetentionView(keep_last=await call.gateway.federation.registry.retention())


async def set_retention(call: Call) -> Reply:
    """Say of how many versions of each session a collection keeps the arrays."""
    return RetentionView(keep_last=await registry_of(call).set_retention(call.given(RetentionView).keep_last))


async def collect(call: Call) -> Reply:
    """Remove the arrays of versions beyond the retention that nothing needs."""
    query = call.asked(Collected)
    found = await registry_of(call).collect(dry_run=query.dry_run, grace_s=query.grace_s)
    if not query.dry_run:
        await call.gateway.catalogue.refresh(*found.removed)
    return collection_view(found)


def collection_view(found: Collection) -> CollectionView:
    """Return what a collection did as REST shows it."""
    return CollectionView(**asdict(found))


_OF = f"{API}/models/{{version}}"
_CONTENT = {
    "ETag": "The model's digest, strong: goes into `If-Range` when a download is taken up again.",
    "Accept-Ranges": "`bytes`.",
    "Content-Range": "Of a part: which bytes of how many.",
    "Content-Disposition": "The name of the file.",
    "Fedbus-Digest": "`blake3=` and the digest of the model's bytes, without the file's header.",
}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        id="listModels",
        method="GET",
        path=f"{API}/models",
        summary="List versions",
        handler=list_models,
        command="fedbus model list --json",
        python="Registry.versions",
        query=ModelsAsked,
        answer=Page[ModelView],
        problems=(422,),
        needs=Action.MODEL_READ,
    ),
    Operation(
        id="importModel",
        method="POST",
        path=f"{API}/models",
        summary="Import a model",
        handler=import_model,
        command="fedbus model import FILE VERSION",
        python="Registry.import_model",
        query=Imported,
        answer=ModelView,
        status=201,
        problems=(408, 409, 415, 422),
        body_media="application/octet-stream",
        idempotent=True,
        headers={"Location": "Where the version is."},
        needs=Action.MODEL_IMPORT,
    ),
    Operation(
        id="getModel",
        method="GET",
        path=_OF,
        summary="Show a version",
        handler=get_model,
        command="fedbus model show VERSION --json",
        python="Registry.describe",
        answer=ModelDetail,
        problems=(404,),
        needs=Action.MODEL_READ,
    ),
    Operation(
        id="downloadModel",
        method="GET",
        path=f"{_OF}/content",
        summary="Download a version",
        handler=get_content,
        command="fedbus model download VERSION",
        python="Models.chunks",
        media=MEDIA,
        problems=(404, 416),
        headers=_CONTENT,
        needs=Action.MODEL_DOWNLOAD,
    ),
    Operation(
        id="getModelCard",
        method="GET",
        path=f"{_OF}/card",
        summary="Show a version's card",
        handler=get_card,
        command="fedbus model card VERSION",
        python="Registry.card",
        media="text/markdown",
        problems=(404,),
        needs=Action.MODEL_READ,
    ),
    Operation(
        id="getLineage",
        method="GET",
        path=f"{_OF}/lineage",
        summary="Show a version's lineage",
        handler=get_lineage,
        command="fedbus model lineage VERSION --json",
        python="Registry.lineage",
        answer=LineageView,
        problems=(404,),
        needs=Action.MODEL_READ,
    ),
    Operation(
        id="annotateModel",
        method="PATCH",
        path=_OF,
        summary="Note something beside a version",
        handler=annotate,
        command="fedbus model annotate VERSION NOTE",
        python="Registry.annotate",
        body=Annotation,
        answer=ModelView,
        problems=(404, 422),
        needs=Action.MODEL_ANNOTATE,
    ),
    Operation(
        id="removeModel",
        method="DELETE",
        path=_OF,
        summary="Remove a version's arrays",
        handler=remove_model,
        command="fedbus model remove VERSION",
        python="Registry.remove",
        query=Removed,
        answer=ModelView,
        problems=(404, 409, 422),
        needs=Action.MODEL_REMOVE,
    ),
    *stages.OPERATIONS,
    Operation(
        id="getRetention",
        method="GET",
        path=f"{API}/retention",
        summary="Show which versions are kept",
        handler=get_retention,
        command="fedbus retention show --json",
        python="Registry.retention",
        answer=RetentionView,
        needs=Action.MODEL_READ,
    ),
    Operation(
        id="setRetention",
        method="PUT",
        path=f"{API}/retention",
        summary="Say which versions are kept",
        handler=set_retention,
        command="fedbus retention set --keep-last N",
        python="Registry.set_retention",
        body=RetentionView,
        answer=RetentionView,
        problems=(422,),
        needs=Action.RETENTION_SET,
    ),
    Operation(
        id="collectModels",
        method="POST",
        path=f"{API}/models/collect",
        summary="Remove versions that are not kept",
        handler=collect,
        command="fedbus model collect",
        python="Registry.collect",
        query=Collected,
        answer=CollectionView,
        problems=(422,),
        needs=Action.RETENTION_SET,
    ),
)
"""Operations on models, stages and what is kept."""
