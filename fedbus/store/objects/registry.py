"""Stores by the scheme of their URL: our own, and those that installed packages offer under ``fedbus.stores``.

    file:///var/lib/fedbus/models
    s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1
    jetstream://127.0.0.1:4222?workspace=archive

What stands in the query are options of that kind of store. Secrets have no place there: URLs are logged and shown.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from fedbus.errors import ConfigError
from fedbus.plugins import Registry
from fedbus.store.objects.base import Store, StoreKind

REGISTRY: Registry[StoreKind] = Registry(
    "fedbus.stores",
    "store",
    StoreKind,
    {
        "file": "fedbus.store.objects.directory:DIRECTORY",
        "jetstream": "fedbus.store.objects.jetstream:JETSTREAM",
        "s3": "fedbus.store.objects.s3:S3",
    },
)

names, find = REGISTRY.names, REGISTRY.find


def open_store(url: str) -> Store:
    """Open the store at a URL; `ConfigError` for a scheme that no package offers, or options that it does not take.

    Nothing is connected yet. Close it when it is not needed any more.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or not scheme:
        raise ConfigError(f"store: expected a URL such as file:///DIR or s3://BUCKET/PREFIX, got {url!r:.200}")
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ConfigError(f"store {scheme}: expected each option once, got {', '.join(name for name, _ in pairs)}")
    return find(scheme).open(url, options)
