"""What else is on the machine: listeners, tunnels, web servers, other firewalls, forwarding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pyinfra.api import FactBase, StringCommand

from celery_pi.facts.ufw import Firewall
from celery_pi.preflight.listeners import Listener, listener
from celery_pi.settings import Settings
from celery_pi.shell import assign, script

WEB_SERVERS = ("nginx", "apache2", "caddy", "lighttpd")
OTHERS = ("apache2", "caddy", "lighttpd")

SHOW = script("surroundings")
FORWARDING = (
    r"^[[:space:]]*-?net\.(ipv4\.ip_forward|ipv[46]\.conf\.(all|default)\.forwarding)"
    r"[[:space:]]*=[[:space:]]*1"
)


@dataclass(frozen=True)
class Surroundings:
    """Who listens, and in which unit; the tunnels; the web servers that are installed, and that
    start with the machine; what else filters packets; the files that switch forwarding on."""

    listeners: tuple[Listener, ...] = ()
    units: dict[str, str] = field(default_factory=dict)
    tunnels: dict[str, list[str]] = field(default_factory=dict)
    wireguard: dict[str, int] = field(default_factory=dict)
    web_servers: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    forwarding: tuple[str, ...] = ()
    docker: bool = False
    root: str = ""
    """The kind of its file system."""
    has_modules: bool = True
    """Whether the kernel that runs finds its modules, if it has any."""


class SurroundingsOf(FactBase[Surroundings]):
    """All of it, read in one command."""

    default = Surroundings

    def command(self, port: int, tls: int) -> StringCommand:
        words = assign(
            port=str(port),
            tls=str(tls),
            servers=" ".join(WEB_SERVERS),
            forwarding=FORWARDING,
        )
        return StringCommand(words, SHOW)

    def process(self, output: list[str]) -> Surroundings:
        lines = [line.partition(" ") for line in output]

        def values(word: str) -> list[str]:
            return [rest for first, _, rest in lines if first == word]

        tunnels: dict[str, list[str]] = {}
        for name, address in map(str.split, values("tunnel")):
            tunnels.setdefault(name, []).append(address)
        units = (line.partition(" ") for line in values("unit"))
        return Surroundings(
            listeners=tuple(filter(None, map(listener, values("socket")))),
            units={pid: unit for pid, _, unit in units},
            tunnels=tunnels,
            wireguard={name: int(port) for name, port in map(str.split, values("wireguard"))},
            web_servers=tuple(values("installed")),
            enabled=tuple(name for name in values("enabled") if name in OTHERS),
            filters=tuple(values("filters")),
            forwarding=tuple(values("forwards")),
            docker="docker" in output,
            root="".join(values("root")),
            has_modules="no-modules" not in output,
        )


def ground_problems(
    surroundings: Surroundings, settings: Settings, is_container: bool
) -> Iterator[str]:
    """A sentence for each thing that would be gone, or fail, for what the machine stands on. Of a
    container both are its host's."""
    if is_container:
        return
    if surroundings.root.startswith("overlay"):
        yield (
            "its root is an overlay, so all would be gone with the next start: switch it off "
            "(raspi-config: Performance, Overlay File System) and restart it first"
        )
    if settings.firewall and not surroundings.has_modules:
        yield (
            "its kernel has been replaced by an upgrade, and the firewall needs modules that are "
            "gone with the old one: restart it first, or set firewall = False"
        )


def filter_problems(surroundings: Surroundings, now: Firewall) -> Iterator[str]:
    """A sentence for each other firewall, and for packets that are passed on for others, which
    ufw would stop. What ufw stops already is its owner's wish."""
    for name in surroundings.filters:
        what = "iptables-persistent" if name == "netfilter-persistent" else name
        yield (
            f"{what} has a firewall of its own on it, which ufw would take the place of: set "
            f"firewall = False, or remove {what}"
        )
    if now.settings.get("DEFAULT_FORWARD_POLICY", "").upper() == "ACCEPT":
        yield (
            "ufw passes packets on for other machines (DEFAULT_FORWARD_POLICY in "
            "/etc/default/ufw), and our firewall would not: set firewall = False, or that to DROP"
        )
    elif (
        surroundings.forwarding and not surroundings.docker and now.settings.get("ENABLED") != "yes"
    ):
        yield (
            f"it passes packets on for other machines ({', '.join(surroundings.forwarding)}), and "
            "the firewall would stop them: set firewall = False, or take that line out"
        )


def web_servers_warnings(surroundings: Surroundings, settings: Settings) -> Iterator[str]:
    """Which web servers there are, unless nginx is the only one."""
    listening = {one.process for one in surroundings.listeners}
    others = [name for name in surroundings.web_servers if name in OTHERS]
    if others and "nginx" not in surroundings.web_servers and settings.flower:
        described = ", ".join(f"{name} ({_is(name in listening)})" for name in others)
        yield f"its web server is {described}, and nginx will be installed beside it, for Flower"


def _is(listening: bool) -> str:
    return "which runs" if listening else "which does not run"
