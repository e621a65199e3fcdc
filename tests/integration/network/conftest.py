"""Two machines that are none: a server and a client in network namespaces of their own, a cable between them.

The client's firewall lets nothing in that it has not asked for, and nothing out but TCP to port 443. Nothing of this
touches the machine's own network; names are of this process alone, and all of it goes with the test.

And two HTTP proxies that are not ours (proxy.py): one asks who we are, the other is spoken to over TLS.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from fedbus.access.certs import Certs
from fedbus.bus.embedded.child import die_with

SERVER, CLIENT = "198.18.77.1", "198.18.77.2"
"""Of the range for tests of network devices (RFC 2544): nobody's."""

FIREWALL = """
-P INPUT DROP
-P OUTPUT DROP
-P FORWARD DROP
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -j DROP
-A OUTPUT -o lo -j ACCEPT
-A OUTPUT -p tcp --dport 443 -j ACCEPT
-A OUTPUT -j DROP
"""


def run(*command, check=True):
    """Run a command of the system; returns what it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Hosts:
    """The two namespaces by name, and what the client's firewall has seen."""

    def __init__(self):
        self.tag = f"fb{secrets.token_hex(3)}"
        self.server, self.client = f"{self.tag}s", f"{self.tag}c"

    def lay(self):
        """Make both, the cable, and the firewall."""
        ends = {self.server: (f"{self.tag}0", SERVER), self.client: (f"{self.tag}1", CLIENT)}
        for host in ends:
            run("ip", "netns", "add", host)
        (near, _), (far, _) = ends.values()
        run("ip", "link", "add", near, "netns", self.server, "type", "veth", "peer", "name", far, "netns", self.client)
        for host, (cable, address) in ends.items():
            run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", cable)
            run("ip", "-n", host, "link", "set", cable, "up")
            run("ip", "-n", host, "link", "set", "lo", "up")
        run(*self.on(self.client), "ip6tables", "-P", "OUTPUT", "DROP", check=False)
        for rule in FIREWALL.strip().splitlines():
            run(*self.on(self.client), "iptables", "-w", "5", *rule.split())

    def on(self, host):
        """Return what runs a command on a host."""
        return ("ip", "netns", "exec", host)

    def let_out(self, port):
        """Have the client's firewall let out another port in place of 443, and count anew."""
        for rule in (f"-R OUTPUT 2 -p tcp --dport {port} -j ACCEPT", "-Z"):
            run(*self.on(self.client), "iptables", "-w", "5", *rule.split())

    def packets(self):
        """Return how many packets each rule of the client's firewall has seen, and each policy."""
        told = run(*self.on(self.client), "iptables", "-w", "5", "-L", "-v", "-n", "-x")
        seen, chain = {}, ""
        for line in told.splitlines():
            if heading := re.match(r"Chain (\w+) \(policy DROP (\d+) packets", line):
                chain = heading[1]
                seen[chain, "policy"] = int(heading[2])
            elif rule := re.match(r"\s*(\d+)\s+\d+\s+(ACCEPT|DROP)\s+\S+\s+\S+\s+(\S+\s+\S+)\s+\S+\s+\S+\s*(.*)", line):
                what = "lo" if "lo" in rule[3].split() else rule[4].strip() or "rest"
                seen[chain, f"{rule[2]} {what}"] = int(rule[1])
        return seen

    def remove(self):
        """Take all of it away; what runs in it has ended by then."""
        for host in (self.server, self.client):
            run("ip", "netns", "del", host, check=False)


def _impossible():
    """Why there can be no namespaces here; '' where there can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    missing = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    return f"needs {' and '.join(missing)}" if missing else ""


@pytest.fixture
def hosts():
    """Two hosts with a cable between them, and the client's firewall."""
    # root in a container may have no right to make namespaces: whoever knows that he has it asks for them
    required = os.environ.get("FEDBUS_NAMESPACES") == "required"
    if (why := _impossible()) and not required:
        pytest.skip(why)
    made = Hosts()
    try:
        try:
            made.lay()
        except (RuntimeError, OSError) as error:
            if required:
                raise
            pytest.skip(f"no network namespaces, or no firewall, here: {error}")
        yield made
    finally:
        made.remove()


HERE = Path(__file__).parent
USER, PASSWORD = "anna", "p@ss:w,rd&?"
NAME = "broker.test"
"""Nobody on this machine knows it, but the proxies do (`names.py`): who connects under it went through one."""


@dataclass(frozen=True)
class Proxies:
    """Their addresses, and who signed the certificate of the second; ``name``: what they alone know as this machine."""

    basic: str
    secure: str
    ca: Path
    name: str = NAME

    @property
    def anonymous(self):
        """The first, without user and password."""
        return f"http://{self.basic.rpartition('@')[2]}"

    @property
    def secrets(self):
        """What nothing may show of the first's user and password: as they are, as in its address, as in the header."""
        user = self.basic.partition("//")[2].rpartition("@")[0]
        return PASSWORD, user, user.partition(":")[2], base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def proxies(tmp_path_factory):
    """Both of them, until the module's tests end."""
    place, host = tmp_path_factory.mktemp("proxies"), "127.0.0.1"
    certs = Certs(place / "proxy-certs")
    certs.init()
    certs.server("proxy", [host, NAME])
    certificate, key = certs.files("proxy")
    common = ["-m", "proxy", "--hostname", host, "--port", "0", "--num-workers", "1", "--num-acceptors", "1"]
    common += ["--plugins", "names.Names", "--log-level", "e"]
    special = {
        "basic": ["--basic-auth", f"{USER}:{PASSWORD}"],
        "secure": ["--cert-file", str(certificate), "--key-file", str(key)],
    }
    children, files = [], {name: place / f"{name}.port" for name in special}
    try:
        with (place / "proxies.log").open("ab") as log:
            for name, options in special.items():
                command = [sys.executable, *common, "--port-file", str(files[name]), *options]
                env = {**os.environ, "PYTHONPATH": str(HERE)}
                children.append(
                    await asyncio.create_subprocess_exec(
                        *command, env=env, stdout=log, stderr=log, preexec_fn=die_with(os.getpid())
                    )
                )
        async with asyncio.timeout(60):
            while not all(file.exists() and file.read_text().strip() for file in files.values()):  # noqa: ASYNC110 - processes
                await asyncio.sleep(0.05)
        ports = {name: file.read_text().strip() for name, file in files.items()}
        user = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"
        yield Proxies(f"http://{user}@{host}:{ports['basic']}", f"https://{host}:{ports['secure']}", certs.ca)
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        for child in children:
            await child.wait()
