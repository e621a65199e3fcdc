"""Stages: named places for one version each, such as ``production``; they belong to `fedbus.gateway.routes.models`."""

from __future__ import annotations

from dataclasses import asdict

from fedbus.access.actions import Action
from fedbus.federation.registered import StageInfo
from fedbus.federation.registry import Registry
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, page_of
from fedbus.gateway.views import Page, Promotion, Rollback, StageView


def registry_of(call: Call) -> Registry:
    """Return the registry, which writes down who changes it."""
    federation = call.gateway.federation
    return Registry(federation, call.caller.name) if call.caller.name else federation.registry


async def list_stages(call: Call) -> Reply:
    """Stages, by name: which version each has, since when, by whom and why, and those before."""
    found = [stage_view(one) for one in await registry_of(call).stages()]
    return page_of(found, call.asked(Paged), key=lambda stage: stage.stage)


async def get_stage(call: Call) -> Reply:
    """A stage: the version that it has, since when, by whom and why, and those before."""
    return stage_view(await registry_of(call).stage(call.path["stage"]))


async def promote(call: Call) -> Reply:
    """Give a stage a version; a stage that is not there yet is made."""
    given = call.given(Promotion)
    found = await registry_of(call).promote(given.version, call.path["stage"], given.reason)
    await call.gateway.catalogue.refresh()
    return stage_view(found)


async def rollback(call: Call) -> Reply:
    """Give a stage the version back that it had before."""
    found = await registry_of(call).rollback(call.path["stage"], call.given(Rollback).reason)
    await call.gateway.catalogue.refresh()
    return stage_view(found)


async def clear(call: Call) -> Reply:
    """Take a stage away; the answer is what it was."""
    found = await registry_of(call).clear(call.path["stage"])
    await call.gateway.catalogue.refresh()
    return stage_view(found)


def stage_view(info: StageInfo) -> StageView:
    """Return a stage as REST shows it."""
    return StageView(**asdict(info))


_OF = f"{API}/stages/{{stage}}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        id="listStages",
        method="GET",
        path=f"{API}/stages",
        summary="List stages",
        handler=list_stages,
        command="fedbus stage list --json",
        python="Registry.stages",
        query=Paged,
        answer=Page[StageView],
        problems=(422,),
        needs=Action.MODEL_READ,
    ),
    Operation(
        id="getStage",
        method="GET",
        path=_OF,
        summary="Show a stage",
        handler=get_stage,
        command="fedbus stage show STAGE --json",
        python="Registry.stage",
        answer=StageView,
        problems=(404,),
        needs=Action.MODEL_READ,
    ),
    Operation(
        id="promote",
        method="PUT",
        path=_OF,
        summary="Give a stage a version",
        handler=promote,
        command="fedbus model promote VERSION STAGE",
        python="Registry.promote",
        body=Promotion,
        answer=StageView,
        problems=(404, 409, 422),
        needs=Action.MODEL_PROMOTE,
    ),
    Operation(
        id="clearStage",
        method="DELETE",
        path=_OF,
        summary="Take a stage away",
        handler=clear,
        command="fedbus stage clear STAGE",
        python="Registry.clear",
        answer=StageView,
        problems=(404,),
        needs=Action.MODEL_PROMOTE,
    ),
    Operation(
        id="rollBack",
        method="POST",
        path=f"{_OF}/rollback",
        summary="Give a stage the version before",
        handler=rollback,
        command="fedbus model rollback STAGE",
        python="Registry.rollback",
        body=Rollback,
        answer=StageView,
        problems=(404, 409, 422),
        needs=Action.MODEL_PROMOTE,
    ),
)
"""Operations on stages."""
