"""What only who has the keys of a broker can do: make workspaces, and credentials without a token."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from fedbus.access import known
from fedbus.access.authority import Authority
from fedbus.access.claims import claims_of
from fedbus.access.credentials import Credentials, read_credentials, write_credentials
from fedbus.access.local import credentials_dir, enlist, sign_anew
from fedbus.access.members import Members
from fedbus.bus.base import Bus
from fedbus.bus.nats import Identity, connect
from fedbus.bus.tls import told_to_others
from fedbus.cli.identities import user_name
from fedbus.cli.output import print_json, print_table
from fedbus.clock import SystemClock
from fedbus.errors import BusError, ConfigError
from fedbus.messages.access import Member
from fedbus.messages.ids import check_name
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams


async def authority_of(keys: Path | None, url: str) -> Authority:
    """Take the keys of a directory, else those that are remembered of a broker here; `ConfigError` where none are."""
    return await asyncio.to_thread(_authority, keys, url)


def _authority(keys: Path | None, url: str) -> Authority:
    found = keys or known.keys_at(url)
    if found is None:
        raise ConfigError(
            f"the keys of the broker at {url} are not known here: --keys DIR, on the machine that has them"
        )
    if keys is not None and not keys.is_dir():
        raise ConfigError(f"{keys}: there is no such directory; `fedbus up` makes keys in its data directory")
    return Authority.open(found)


def reached(url: str) -> tuple[tuple[str, ...], str]:
    """Return the addresses in a broker's URL, without files of this machine, and the certificates that sign its own.

    Those that the URL names, else those that credentials say which are remembered of that broker; '' for the system's.
    """
    addresses, ca = told_to_others(url)
    for entry in known.known_at(url, None):
        with suppress(ConfigError):
            ca = ca or read_credentials(entry.credentials).trust.ca
    return addresses, ca


async def create_workspace(keys: Path | None, name: str, url: str, *, json: bool) -> None:
    """Make a workspace, tell the broker, make its streams, and credentials of an admin for whoever runs this."""
    check_name("workspace", name)
    authority = await authority_of(keys, url)
    # one whose making was cut short (the broker was away) is gone on with
    if name in authority.workspaces and await asyncio.to_thread(known.find, url, name, role="admin") is not None:
        raise ConfigError(f"workspace {name} is there already: fedbus workspace show --workspace {name}")
    await asyncio.to_thread(authority.create_workspace, name)
    urls, ca = await asyncio.to_thread(reached, url)
    await authority.push(name, url, ca=ca)
    admin = await asyncio.to_thread(authority.issue, name, "admin", user_name(), urls, ca)
    path = credentials_dir(authority.directory, name) / f"admin.{admin.name}.creds"
    await asyncio.to_thread(write_credentials, path, admin)
    await asyncio.to_thread(known.remember, url, name, path, keys=authority.directory)
    async with await connect(url, name=f"admin-{admin.name}", credentials=path) as bus:
        await ensure_streams(bus, Subjects(name))
        await enlist(bus, admin, by=f"admin/{admin.name}")
    if json:
        print_json({"workspace": name, "keys": str(authority.directory), "credentials": str(path)})
        return
    print(f"workspace {name} is there; you are its admin {admin.name}: {path}")
    print("it needs a coordinator, a combiner and a gateway, each with credentials, the gateway with the keys:")
    at = f"--workspace {name} --keys {authority.directory}"
    print(f"  fedbus member issue coordinator --role coordinator {at} --out FILE")
    print(f"  fedbus coordinator --workspace {name} --credentials FILE")
    print(f"  fedbus gateway --workspace {name} --credentials FILE --keys {authority.directory}")


async def list_workspaces(keys: Path | None, url: str, *, json: bool) -> None:
    """Print the workspaces that there are keys for."""
    authority = await authority_of(keys, url)
    names = authority.workspaces
    if json:
        print_json(names)
        return
    rows = [(name, authority.trust(name).account) for name in names]
    print_table(("workspace", "account"), rows, empty="no workspaces yet; fedbus workspace create NAME makes one")


ANEW = "credentials beside the keys are new already, others by `fedbus member renew`; nothing has to restart"

NEXT = {
    "begin": f"coordinators and combiners have to know the new keys: {ANEW}; then: switch",
    "switch": f"members get JWTs by the new keys when they renew ({ANEW}); when all have: retire",
    "retire": "what the keys of before have signed lets in nobody any more",
}
"""What is to be done behind each step."""

VERIFYING = ("coordinator", "combiner")
"""Roles that have to know a key before anybody shows what it has signed: what they do not know they refuse."""


async def rotate_keys(keys: Path | None, name: str, url: str, step: str, *, force: bool, json: bool) -> None:
    """Do one step of replacing a workspace's signing keys, tell the broker, and whoever has credentials here."""
    if step not in ("begin", "switch", "retire"):
        raise ConfigError(f"expected a step, begin, switch or retire, got {step!r}")
    authority = await authority_of(keys, url)
    made = await asyncio.to_thread(authority.issue, name, "admin", user_name())
    ca = (await asyncio.to_thread(reached, url))[1]
    async with await connect(url, name="rotation", credentials=Identity(made.jwt, made.seed, ca)) as bus:
        left = await _left(bus, authority, name, step)
        if left and not force:
            shown = ", ".join(f"{member.role} {member.name}" for member in left[:5])
            raise ConfigError(f"{len(left)} members have nothing newer yet ({shown}): {_TO_DO[step]}")
        await asyncio.to_thread(authority.replace_signers, name, step)  # type: ignore[arg-type]  # looked at above
        await authority.push(name, url, ca=ca)
        await sign_anew(bus, authority, name, by=f"admin/{made.name}")
    if json:
        print_json({"workspace": name, "step": step, "left": [[member.role, member.name] for member in left]})
    else:
        print(f"workspace {name}: {step} is done; next: {NEXT[step]}")


_TO_DO = {
    "switch": "`fedbus member renew --credentials FILE` where they run; with --force what renewed members say is "
    "refused by them until they have",
    "retire": "wait until they have renewed; with --force they have to join again",
}


async def _left(bus: Bus, authority: Authority, workspace: str, step: str) -> list[Member]:
    """Return active members for whom a step comes too soon.

    Before the new keys sign, that is who verifies and was not signed since they are known; before those of before are
    retired, who has a JWT by them.
    """
    if step == "begin":
        return []
    members = Members(bus, Subjects(workspace), SystemClock())
    await members.load()
    found = [member for member in members.all(state="active") if member.jwt]
    if step == "switch":
        since = int(authority.replacing_since(workspace))  # JWTs count whole seconds
        return [one for one in found if one.role in VERIFYING and one.issued_at < since]
    return [one for one in found if claims_of(one.jwt).issuer != authority.signers(workspace, one.role)[0]]


async def issue(
    keys: Path | None, workspace: str, role: str, name: str, urls: tuple[str, ...], out: Path, *, json: bool
) -> None:
    """Make credentials, and write on the board of members who got them, where the broker can be reached."""
    if keys is None:
        raise ConfigError("credentials are made with the workspace's keys: --keys DIR")
    check_name("name", name)
    authority = await authority_of(keys, "")
    at = ",".join(urls)
    urls, ca = await asyncio.to_thread(reached, at)
    made = await asyncio.to_thread(authority.issue, workspace, role, name, urls, ca)
    await asyncio.to_thread(_write_new, out, made)
    listed = False
    if urls:
        writer = await asyncio.to_thread(authority.issue, workspace, "admin", user_name(), urls, ca)
        temporary = out.with_name(f".{out.name}.admin")
        await asyncio.to_thread(write_credentials, temporary, writer)
        try:
            async with await connect(at, name="issue", credentials=temporary) as bus:
                await enlist(bus, made, by=f"admin/{writer.name}")
            listed = True
        except BusError:
            listed = False  # a broker that is not there yet is told by whoever starts it
        finally:
            temporary.unlink(missing_ok=True)
    if json:
        print_json({"workspace": workspace, "role": role, "name": name, "credentials": str(out), "listed": listed})
    else:
        print(f"{out}: credentials of {role} {name} in workspace {workspace}; whoever has the file is it")


def _write_new(out: Path, made: Credentials) -> None:
    if out.exists():
        raise ConfigError(f"{out}: there already, and not written over: remove it, or choose another --out")
    write_credentials(out, made)
