"""Stores behind the bus: the bus carries a model, a store keeps it (docs/decisions/0021-the-bus-carries.md)."""

from fedbus.store.objects.base import ObjectInfo, Store, StoreKind, check_key
from fedbus.store.objects.registry import open_store

__all__ = ["ObjectInfo", "Store", "StoreKind", "check_key", "open_store"]
