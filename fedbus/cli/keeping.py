"""How often and where streams are kept: options that `up` and `coordinator` share."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.bus.base import Placement

Replicas = Annotated[
    int,
    typer.Option(
        "--replicas",
        min=0,
        max=5,
        help="Servers that keep each stream, 3 or 5 of a cluster; 0 leaves existing streams as they are.",
    ),
]
PlacementCluster = Annotated[
    str,
    typer.Option(
        "--placement-cluster", metavar="NAME", help="Streams stand in this cluster of several.", show_default=False
    ),
]
PlacementTags = Annotated[
    str,
    typer.Option(
        "--placement-tags",
        metavar="A,B",
        help="Streams stand on servers with all of these tags.",
        show_default=False,
    ),
]


def placement_of(cluster: str, tags: str) -> Placement | None:
    """Return what two options say, or None when they say nothing."""
    found = tuple(tag.strip() for tag in tags.split(",") if tag.strip())
    return Placement(cluster, found) if cluster or found else None
