"""Two machines that are none: a server and a client in network namespaces of their own, a cable between them.

The client's firewall lets nothing in that it has not asked for, and nothing out but TCP to port 443. Nothing of this
touches the machine's own network; names are of this process alone, and all of it goes with the test.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess

import pytest

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
