"""Who listens on the machine: at the port that Redis is to have, where a web server of ours is to
be, and on what the firewall would cut off. Sentences alone; `surroundings` asks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

from celery_pi.facts.ufw import Firewall
from celery_pi.firewall_rules import Opening, Rule
from celery_pi.settings import FOR_THIS_PI, Settings

REDIS = "redis-server"
REDIS_UNIT = "redis-server.service"
FREE = range(6390, 6490)  # ports that are proposed for Redis
HIGHEST = 65536
# What a line begins with; a process whose name has a line break, which it may give itself, makes
# lines that are none.
SOCKET = re.compile(r"(tcp|udp) +[A-Z]+ +[0-9]+ +[0-9]+ +([^ ]+):([0-9]+) +[^ ]+:[*0-9]+(?: |$)")
ADDRESS = re.compile(r"[0-9A-Fa-f:.*]+(?:%[^ ]+)?")
USER = re.compile(r'\(\("([^"]*)",pid=([0-9]+)')

# Clients of what ufw lets in by itself (DHCP, mDNS, time), whose sockets look like a server's; and
# Docker's proxy, past whose ports ufw does not come.
NOT_CUT_OFF = {"avahi-daemon", "dhclient", "dhcpcd", "NetworkManager", "chronyd", "docker-proxy"}
LET_IN = {(68, "udp"), (546, "udp")}  # by ufw's own before.rules


class Listener(NamedTuple):
    """A socket that waits for others; without a process it is the kernel's, such as WireGuard's."""

    protocol: str
    address: str
    port: int
    process: str = ""
    pid: str = ""

    @property
    def is_local(self) -> bool:
        """Whether no other machine reaches it."""
        return self.address.partition("%")[2] == "lo" or _is_loopback(self.address)

    @property
    def takes_loopback(self) -> bool:
        """Whether nobody else can listen on this port of 127.0.0.1 or ::1."""
        return self.address in ("*", "0.0.0.0", "::") or _is_loopback(self.address)  # noqa: S104

    @property
    def port_spec(self) -> str:
        """As `firewall_allow` has it."""
        return f"{self.port}/{self.protocol}"


def listener(line: str) -> Listener | None:
    """What a line of `ss -Hltnup` stands for."""
    socket = SOCKET.match(line)
    address = socket[2].replace("[", "").replace("]", "") if socket else ""
    if not socket or not ADDRESS.fullmatch(address):
        return None
    user = USER.search(line)
    process, pid = user.groups() if user else ("", "")
    return Listener(socket[1], address, int(socket[3]), process, pid)


def _is_loopback(address: str) -> bool:
    plain = address.partition("%")[0]
    return plain != "*" and ip_address(plain).is_loopback


def redis_problems(
    listeners: Sequence[Listener], units: Mapping[str, str], settings: Settings
) -> Iterator[str]:
    """A sentence when somebody else has the port that Redis is to listen on. `units` maps a
    PID to its unit."""
    if settings.redis_socket:
        return
    name = "redis_tls_port" if settings.redis_tls else "redis_port"
    port = getattr(settings, name)
    for one in listeners:
        unit = units.get(one.pid, "")
        is_redis = unit == REDIS_UNIT or (one.process == REDIS and not unit)
        if one.protocol == "tcp" and one.port == port and one.takes_loopback and not is_redis:
            process = f"{one.process or 'the kernel'}{f' ({unit})' if unit else ''}"
            yield (
                f"{process} listens on port {port}, where Redis is to: set "
                f"{name} = {_free(listeners)}, or stop what listens there for good"
            )
            return


def _free(listeners: Sequence[Listener]) -> int:
    taken = {one.port for one in listeners}
    return next((port for port in FREE if port not in taken), FREE.start)


def web_problems(
    listeners: Sequence[Listener], enabled: Sequence[str], settings: Settings
) -> Iterator[str]:
    """A sentence for each web server that is stopped now and would race nginx for its ports at the
    next start of the machine."""
    if not (settings.flower and settings.nginx_server):
        return
    running = {one.process for one in listeners}
    for server in enabled:
        if server not in running:
            yield (
                f"{server} does not run, but starts with the machine, and would take port 80 from "
                f"nginx then: `systemctl disable {server}`, or set flower = False"
            )


def cut_off(
    listeners: Sequence[Listener], openings: Sequence[Opening], now: Firewall, only_ours: bool
) -> list[Listener]:
    """Those that other machines reach, and would reach no more behind the firewall; one for each
    port. Where ufw is on and lets nothing else in, only what rules of somebody else's let in."""
    is_ours = any(rule.is_ours for rule in now.rules)
    is_on = now.settings.get("ENABLED") == "yes"
    is_closed = is_on and now.settings.get("DEFAULT_INPUT_POLICY", "").upper() in ("DROP", "REJECT")
    if is_closed and (is_ours or not only_ours):
        return []
    allowed = {(opening.port, opening.protocol) for opening in openings}
    allowed |= {(port, "tcp") for port in now.ssh or (22,)} | LET_IN
    strange = [] if only_ours else [rule for rule in now.rules if not rule.is_ours]
    by_port: dict[tuple[int, str], Listener] = {}
    for one in listeners:
        key = (one.port, one.protocol)
        if one.is_local or key in allowed or one.process in NOT_CUT_OFF | {REDIS}:
            continue
        if one.process.startswith("systemd-") or any(_lets_in(rule, one) for rule in strange):
            continue
        if not is_closed or any(_lets_in(rule, one) for rule in now.rules):
            by_port.setdefault(key, one)
    return sorted(by_port.values(), key=lambda one: (one.port, one.protocol))


def _lets_in(rule: Rule, one: Listener) -> bool:
    action, protocol, ports, *_ = rule.text.split()
    if action.partition("_")[0] not in ("allow", "limit") or protocol not in (one.protocol, "any"):
        return False
    ends = [part.split(":") for part in ports.split(",")]
    return ports == "any" or any(int(end[0]) <= one.port <= int(end[-1]) for end in ends)


def cut_off_warnings(cut: Sequence[Listener]) -> Iterator[str]:
    """A line for each."""
    for one in cut:
        process = one.process or "the kernel (WireGuard?)"
        advice = (
            "give it another port if they need it, since this one is never let in"
            if one.port in FOR_THIS_PI
            else f'add "{one.port_spec}" to firewall_allow if they need it'
        )
        port = one.port_spec
        yield f"the firewall will cut {process} on {port} off from other machines: {advice}"


def tunnel_problems(
    cut: Sequence[Listener],
    tunnels: Mapping[str, Sequence[str]],
    wireguard: Mapping[str, int],
    now: Firewall,
) -> Iterator[str]:
    """A sentence when this deploy comes by a tunnel whose own port the firewall would close.

    `tunnels` are addresses of each such interface, `wireguard` the ports on which its ones listen.
    """
    if now.session is None:
        return
    peer = ip_address(now.session[0].partition("%")[0])
    for name, addresses in tunnels.items():
        if not any(peer in ip_interface(address).network for address in addresses):
            continue
        port = wireguard.get(name)
        closed = [one for one in cut if _carries(one, name, port)]
        if closed:
            ports = ", ".join(f'"{one.port_spec}"' for one in closed)
            yield (
                f"this deploy comes from {peer} through {name}, and the firewall would close what "
                f"that tunnel comes in by: add {ports} to firewall_allow, or set firewall = False"
            )


def _carries(one: Listener, name: str, wireguard_port: int | None) -> bool:
    if wireguard_port is not None:
        return (one.port, one.protocol) == (wireguard_port, "udp")
    return not one.process or one.process.startswith(("openvpn", "tailscale", "tinc", name))
