"""docker-compose.yml and what it ships: every container is held back, and what it runs exists."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from fedbus.bus.embedded import BrokerSettings
from fedbus.bus.embedded.conf import standalone_text
from fedbus.cli import tree

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
SHIPPED = ROOT / "examples" / "compose"
OURS = [name for name, service in SERVICES.items() if service["image"] == "fedbus:local"]
ONCE = ("init", "invite", "cli")
"""Services that end by themselves."""
SIZES = {"k": 2**10, "m": 2**20, "g": 2**30}


def nbytes(text):
    """Bytes of a size as Compose writes it."""
    return int(text[:-1]) * SIZES[text[-1]]


def settings(text):
    """The settings of a nats-server file: its lines without comments."""
    lines = [re.sub(r"\s*#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_may_more_than_it_needs(name):
    """No root, no capability, no new privilege, nothing to write to but memory and volumes, bounds on everything."""
    service = SERVICES[name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0 and int(group) > 0
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True and not service.get("privileged")
    assert 0 < nbytes(service["mem_limit"]) <= 2**30
    assert 0 < service["cpus"] <= 1
    assert 0 < service["pids_limit"] <= 256
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert all("size=" in mount for mount in service["tmpfs"]), "memory that is written to is bounded"
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_published_is_published_to_this_machine_alone(name):
    """Jaeger and Prometheus ask nobody, so no port is open to others, and the broker's is not published at all."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))
    assert "ports" not in SERVICES["broker"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_from_the_checkout_is_there_and_read_only(name):
    """A bind mount is a file that we ship; all else is a named volume."""
    for mount in SERVICES[name].get("volumes", ()):
        source = mount.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).is_file() and mount.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]


def test_images_are_pinned_or_built_here():
    """No tag moves under who uses it: a version to the patch, or what is built from the checkout."""
    for service in SERVICES.values():
        if "build" in service:
            assert service["build"]["context"] == "."
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    bases = re.findall(r"^ARG \w+=(\S+)$", (SHIPPED / "Dockerfile").read_text(), re.MULTILINE)
    assert bases and all(re.match(r"\d+\.\d+", base) for base in bases)


def typer_knows(words):
    """Whether these words are a command."""
    command = typer.main.get_command(tree.app)
    while words and hasattr(command, "commands"):
        command = command.commands.get(words.pop(0))
    return command is not None


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_ours(name):
    """Each role's arguments are parsed by the command that they name, without a word left over."""
    command, rest = typer.main.get_command(tree.app), list(SERVICES[name]["command"])
    if rest == ["--help"]:
        return
    if SERVICES[name].get("entrypoint", ["fedbus"])[0] != "fedbus":
        script = SHIPPED / Path(SERVICES[name]["entrypoint"][1]).name
        assert script.name in (SHIPPED / "Dockerfile").read_text()
        used = re.findall(r"^ *(?:exec )?fedbus (\w+ ?\w*)", script.read_text(), re.MULTILINE)
        assert all(typer_knows(words.split()) for words in used) and used
    if not rest:
        return
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(name, rest)


def test_roles_wait_for_a_broker_that_is_well():
    """Who has an identity from the beginning begins when the broker answers its health check, clients when there is a
    token for them; the broker when it was told who may come in. Every one that stays has a check of its own.
    """
    done, healthy = {"condition": "service_completed_successfully"}, {"condition": "service_healthy"}
    special = {
        "init": {},
        "invite": {"gateway": healthy, "coordinator-1": healthy},
        "client": {"invite": done},
    }
    assert SERVICES["broker"]["depends_on"] == {"init": done}
    for name in OURS:
        assert SERVICES[name]["depends_on"] == special.get(name, {"broker": healthy})
        if name not in ONCE:
            assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_every_service_sees_its_own_secrets_only():
    """Each has a volume with its credentials, to be read by it alone; the keys are with the gateway only."""
    mounts = {name: [text.split(":") for text in SERVICES[name].get("volumes", ())] for name in SERVICES}
    secrets = [volume for volume in COMPOSE["volumes"] if volume.startswith("own-")]
    for volume in secrets:
        readers = {name for name in SERVICES if any(mount[0] == volume for mount in mounts[name])} - {"init"}
        assert readers == ({"cli", "invite"} if volume == "own-cli" else {volume.removeprefix("own-")})
        assert all([volume, "/etc/fedbus/own", "ro"] in mounts[name] for name in readers)
    assert {name for name in SERVICES if any(mount[0] == "keys" for mount in mounts[name])} == {"init", "gateway"}
    made = [arg.partition("=")[2].split("=") for arg in SERVICES["init"]["command"] if arg.startswith("--member=")]
    named = {
        service["command"][0] + "/" + service["command"][2]
        for service in SERVICES.values()
        if "--name" in service.get("command", ())
    }
    assert {who for who, _ in made} == named | {"admin/cli"}
    places = {mount[1] for mount in mounts["init"]}
    assert {str(Path(file).parent) for _, file in made} <= places
    assert len(made) == len(secrets)


def test_a_client_takes_the_place_that_is_free_and_joins_once(tmp_path):
    """Three containers are three clients; the one that comes for one that went is that one, with its key and data."""
    stand_in, places = tmp_path / "bin" / "fedbus", tmp_path / "places"
    stand_in.parent.mkdir()
    stand_in.write_text(
        '#!/bin/sh\n[ "$1" != join ] || { mkdir -p "$FEDBUS_HOME"; cat > "$FEDBUS_HOME/known.json"; echo; exit; }\n'
        'echo "$FEDBUS_OWNER $*"; exec cat\n'
    )
    stand_in.chmod(0o755)
    (tmp_path / "token").write_text("a token")
    paths = {"FEDBUS_PLACES": str(places), "FEDBUS_INVITATION": str(tmp_path / "token")}
    environment = os.environ | paths | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    command = ["sh", str(SHIPPED / "take-part.sh"), "client", "run"]

    def start():
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(start()) for _ in range(3)]
        assert [one.stdout.readline() for one in running] == ["\n"] * 3
        said = [one.stdout.readline() for one in running]
        assert sorted(said) == [f"{number} client run --name site-{number}\n" for number in (1, 2, 3)]
        assert {path.read_text() for path in places.glob("site-*/known.json")} == {"a token"}
        running[1].communicate()
        again = stack.enter_context(start())
        assert again.stdout.readline() == said[1], "it did not join again"
        for one in (running[0], running[2], again):
            one.stdin.close()


def test_no_secret_is_in_the_repository():
    """What is shipped for it holds neither a key nor a token nor credentials."""
    for path in [ROOT / "docker-compose.yml", *SHIPPED.iterdir()]:
        if path.is_file():
            assert not re.search(
                r"\b(SU|SA|SO)[A-Z2-7]{56}\b|fb[ja]_[A-Za-z0-9_-]{20}|eyJ[A-Za-z0-9_-]{20}", path.read_text()
            )


def test_names_of_the_operators_side_are_told_apart():
    """No two services give a role the same name, and combiners have a volume each."""
    named = [SERVICES[name]["command"] for name in OURS]
    names = [command[command.index("--name") + 1] for command in named if "--name" in command]
    assert len(names) == len(set(names)) == 5
    assert SERVICES["combiner-1"]["volumes"] != SERVICES["combiner-2"]["volumes"]


def test_the_brokers_settings_are_those_that_we_write_elsewhere():
    """The shipped file is what `fedbus broker settings` writes, with bounds; only the health check's port is added."""
    shipped = settings((SHIPPED / "nats.conf").read_text())
    limits = BrokerSettings(name="broker", memory_bytes_max=256 * 2**20, file_bytes_max=10 * 2**30)
    written = settings(standalone_text(limits, Path("/var/lib/nats"), "0.0.0.0", 4222))
    shipped.remove('include "access/access.conf"')
    assert shipped == [*written, 'http: "127.0.0.1:8222"']
    assert "broker-access:/etc/nats/access:ro" in SERVICES["broker"]["volumes"]
    assert limits.memory_bytes_max < nbytes(SERVICES["broker"]["mem_limit"])


def test_prometheus_asks_who_is_there():
    """Each target is a service of ours at the port that it listens on, and every role is asked."""
    given = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    assert set(given) == {"global", "scrape_configs"}
    asked = {}
    for job in given["scrape_configs"]:
        assert set(job) <= {"job_name", "static_configs", "dns_sd_configs"}
        for target in (t for config in job.get("static_configs", ()) for t in config["targets"]):
            host, _, port = target.partition(":")
            asked[host] = port
        for config in job.get("dns_sd_configs", ()):
            assert config["type"] == "A", "with an address alone the port has to be given"
            asked |= {name: str(config["port"]) for name in config["names"]}
    assert set(asked) == set(OURS) - set(ONCE)
    for name, port in asked.items():
        command = SERVICES[name]["command"]
        assert command[command.index("--metrics-port") + 1] == port


def test_what_is_not_needed_is_not_sent_to_the_engine():
    """The build's context is an allow-list: history, data and environments stay here."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (SHIPPED / "Dockerfile").read_text(), re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert any(source.startswith(line[1:]) for line in ignored if line.startswith("!"))
