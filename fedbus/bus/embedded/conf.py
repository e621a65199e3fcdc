"""The settings file of nats-server, written from `BrokerSettings`: with a reason beside what is not its default.

`settings_text` is for the broker that we start ourselves (`EmbeddedBroker`), `standalone_text` for one that somebody
else starts and watches: that one logs to stderr, and writes no files beside its store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from fedbus.bus.embedded.settings import BrokerSecurity, BrokerSettings, BrokerTls, join_address, split_address


def settings_text(
    settings: BrokerSettings, store: Path, host: str, port: int, security: BrokerSecurity | None = None
) -> str:
    """Return the settings file of an embedded broker; port 0 lets it choose one, ``security`` None lets all in."""
    file_bytes = settings.file_bytes_max or int(shutil.disk_usage(store).free * 0.8)
    kept = f"max_file_store: {file_bytes}"
    return f"""\
# Written by fedbus at every start of its embedded broker. To change something, change fedbus's settings.
{_general(settings, join_address(host, port or -1))}
ports_file_dir: {_text(store)}  # where it writes the port that it chose
pid_file: {_text(store / "broker.pid")}
log_file: {_text(store / "broker.log")}
log_size_limit: {settings.log_bytes_max}
log_max_num: 3
{_encryption(settings)}{_who(security, store)}{_streams(settings, store, kept)}{_neighbours(settings, security)}"""


def standalone_text(
    settings: BrokerSettings, store: Path, host: str, port: int, security: BrokerSecurity | None = None
) -> str:
    """Return a settings file for ``nats-server --config``, to be started by whatever starts services there."""
    kept = f"max_file_store: {settings.file_bytes_max}"
    if not settings.file_bytes_max:
        kept = "# no max_file_store: nats-server takes up to three quarters of what is free at its start"
    return f"""\
# nats-server for fedbus. Start it with these variables, or its memory grows further between collections:
#   GOMEMLIMIT={settings.go_memory_bytes} GOGC={settings.go_gc_percent} nats-server --config THIS-FILE
# {_warning(settings, security)}
{_general(settings, join_address(host, port))}
{_encryption(settings)}{_who(security, store)}{_streams(settings, store, kept)}{_neighbours(settings, security)}"""


def _warning(settings: BrokerSettings, security: BrokerSecurity | None) -> str:
    who = "Nobody is asked for a password" if security is None else "Who is let in stands below"
    clear = ["what clients say"] if settings.tls is None else []
    if settings.neighbours_tls is None:
        clear.append("what other servers say")
    if not clear:
        return f"{who}. Everything is encrypted."
    return f"{who}. {' and '.join(clear).capitalize()} is not encrypted: that belongs into a private network."


def _encryption(settings: BrokerSettings) -> str:
    return _tls(settings.tls) + _websocket(settings)


def _tls(files: BrokerTls | None, indent: str = "", *, asks: bool = True) -> str:
    """Return the block of whoever shows these files, and asks the others for theirs; '' for None."""
    if files is None:
        return ""
    asked = f"{indent}  ca_file: {_text(files.clients_ca)}\n" if files.clients_ca else ""
    asked += f"{indent}  verify: true\n" if files.clients_ca and asks else ""
    return f"""\
{indent}tls {{
{indent}  cert_file: {_text(files.certificate)}
{indent}  key_file: {_text(files.key)}
{asked}{indent}  min_version: "1.2"
{indent}  timeout: 5  # its 2 s are little for a slow line
{indent}}}
"""


def _websocket(settings: BrokerSettings) -> str:
    if not settings.websocket_listen:
        return ""
    host, port = split_address(settings.websocket_listen, free=True)
    plain = "  no_tls: true  # a proxy before it ends TLS\n"
    tls = plain if settings.websocket_plain else _tls(settings.tls, "  ")
    return f"""\
websocket {{
  listen: {_text(join_address(host, port or -1))}
{tls}  compression: false  # models do not get smaller by it
}}
"""


def _who(security: BrokerSecurity | None, store: Path) -> str:
    return "" if security is None else access_text(security, store)


def access_text(security: BrokerSecurity, store: Path) -> str:
    """Return the part of a settings file that says who may come in, for one that includes it."""
    accounts = "".join(f"  {key}: {_text(jwt)}\n" for key, jwt in sorted(security.accounts.items()))
    return f"""\
# Who may come in says the JWT of an account; the newest is kept below the store: revoking somebody sends a newer one.
operator: {_text(security.operator)}
system_account: {security.system_account}
resolver {{ type: full, dir: {_text(store / "accounts")}, allow_delete: false, interval: "2m" }}
resolver_preload {{
{accounts}}}
"""


def _general(settings: BrokerSettings, listen: str) -> str:
    tags = f"server_tags: {_list(settings.tags)}  # what `--placement-tags` asks for\n" if settings.tags else ""
    return f"""\
listen: {_text(listen)}
server_name: {_text(settings.name)}
{tags}max_payload: {settings.payload_bytes_max}  # a chunk of a model and its headers in one message
max_pending: {settings.outgoing_bytes_max}  # what waits for one client that does not read
write_deadline: "{_duration(settings)}"  # its 10 s cut off clients whose loop is busy"""


def _streams(settings: BrokerSettings, store: Path, kept: str) -> str:
    if not settings.keeps_streams:
        return f"""\
# A leaf keeps no streams. What its clients ask of streams is asked of its hub, by the name of the hub's domain: across
# a leaf connection nats-server lets nothing else of JetStream pass. With accounts, this line stands in the account.
mappings: {{ "$JS.API.>": {_text(f"$JS.{settings.domain}.API.>")} }}
"""
    domain = f"  domain: {_text(settings.domain)}  # how leaves name it\n" if settings.domain else ""
    return f"""\
jetstream {{
  store_dir: {_text(store)}
{domain}  # By default what is acknowledged is synced to the disk only every two minutes: a power failure takes it back.
  sync_interval: always
  max_memory_store: {settings.memory_bytes_max}
  {kept}
}}
# No http port: monitoring tells everybody who asks who is connected.
"""


def _neighbours(settings: BrokerSettings, security: BrokerSecurity | None) -> str:
    # bytes of a model look like noise: compressing them, which is the default on slow links, costs time for nothing
    text = ""
    if settings.cluster_name:
        asked, user = "", ""
        if security is not None and security.route_password:
            user = f"route:{security.route_password}@"
            asked = f"  authorization {{ user: route, password: {_text(security.route_password)} }}\n"
        routes = _list(f"nats-route://{user}{route}" for route in settings.routes)
        text += f"""\
cluster {{
  name: {_text(settings.cluster_name)}
  listen: {_text(settings.cluster_listen)}
{asked}{_tls(settings.neighbours_tls, "  ")}  routes: {routes}
  compression: off  # models do not get smaller by it
}}
"""
    if settings.leaf_listen or settings.hubs:
        listen = f"  listen: {_text(settings.leaf_listen)}\n" if settings.leaf_listen else ""
        remotes = ""
        if settings.hubs:
            urls = _list(f"nats-leaf://{hub}" for hub in settings.hubs)
            tls = _tls(settings.neighbours_tls, "    ", asks=False)
            tls = f"\n{tls}  " if tls else " "
            remotes = f"  remotes: [ {{ urls: {urls}, compression: off{tls}}} ]  # one of them at a time\n"
        tls = _tls(settings.neighbours_tls, "  ") if listen else ""
        text += f"leafnodes {{\n{listen}{tls}{remotes}  compression: off  # models do not get smaller by it\n}}\n"
    return text


def _duration(settings: BrokerSettings) -> str:
    return f"{round(settings.write_deadline_s * 1000)}ms"


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"


def _text(value: object) -> str:
    # a JSON string is a string of nats-server's settings, and escapes what would end it
    return json.dumps(str(value), ensure_ascii=False)
