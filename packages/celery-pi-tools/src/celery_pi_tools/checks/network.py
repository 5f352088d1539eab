"""Managed by celery-pi. What of this machine can be reached from beyond it, and who may try."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

from celery_pi_tools import manifest
from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.commands import output
from celery_pi_tools.system import System

ADMIN_ADDRESSES = Path("/etc/celery-pi/deployers")
LISTENS = "0A"
PROC = Path("/proc")
# A rule of ufw's by which something comes in, as the kernel has it; without bans ssh's are limited.
LETS_IN = re.compile(r"-A ufw6?-user-input (.*)-j (ACCEPT|ufw6?-user-limit-accept)")
WAYS_IN = (
    r":INPUT DROP",
    r"-A INPUT -j ufw6?-before-input",
    r"-A ufw6?-before-input -j ufw6?-user-input",
)


@check("Network", "Listening TCP sockets", "audit")
def listening(system: System) -> Finding:
    addresses = {
        port: address
        for name in ("tcp", "tcp6")
        for address, port in sockets((PROC / "net" / name).read_text())
        if not is_loopback(address)
    }
    strangers = sorted(set(addresses) - public_ports(system))
    if strangers:
        evidence = ", ".join(f"{addresses[port]} port {port}" for port in strangers)
        remedy = "ss -Htlnp shows whose they are; bind them to 127.0.0.1 or stop them"
        return wrong(f"beyond loopback: {evidence}", remedy, ports=strangers)
    evidence = ", ".join(map(str, sorted(addresses))) or "nothing"
    return ok(f"beyond loopback: {evidence}", ports=sorted(addresses))


def public_ports(system: System) -> set[int]:
    """TCP ports that others may reach: the components', ssh's, and those that the owner allows."""
    texts = (*manifest.ports(), *system.settings["firewall_allow"])
    return {*system.ssh_ports, *(port(text) for text in texts if "/tcp" in text)}


def port(text: str) -> int:
    return int(text.partition("/")[0])


@check("Network", "Firewall", "audit")
def firewall(system: System) -> Finding:
    if not system.settings["firewall"]:
        return warn("off, as firewall = False has it", "firewall = True, and deploy")
    everything: set[str] = set()
    strange: set[str] = set()
    for version, table in system.filters.items():
        if not all(re.search(f"^{way}", table, re.MULTILINE) for way in WAYS_IN):
            return wrong(f"the kernel does not hold it for IPv{version}", "deploy again")
        opened = let_in(table)
        ssh = {f"{each}/tcp" for each in system.ssh_ports}
        expected = declared(system, version) | ssh
        if missing := sorted(expected - opened, key=port):
            evidence = f"{', '.join(missing)} does not come in by IPv{version}"
            return wrong(evidence, "deploy again", open=sorted(opened))
        if not system.settings["bans"] and not ssh <= limited(table):
            evidence = f"without bans, nothing limits who tries ssh by IPv{version}"
            return wrong(evidence, "deploy again", open=sorted(opened))
        everything |= opened
        strange |= (
            opened
            - expected
            - {f"{text} from {address}" for text in ssh for address in admin_addresses()}
        )
    evidence, values = (
        f"lets in {', '.join(sorted(everything, key=port))}",
        {"open": sorted(everything)},
    )
    if strange:
        remedy = "declare it in firewall_allow; or ufw delete, or firewall_only_ours = True"
        return warn(f"{evidence}; not declared: {', '.join(sorted(strange))}", remedy, **values)
    return ok(f"{evidence}, and nothing else", **values)


def declared(system: System, version: int) -> set[str]:
    """Ports that are to be open for that version of IP."""
    other = ":" if version == 4 else "."
    texts = (*manifest.ports(), *system.settings["firewall_allow"])
    return {text for text in texts if other not in text}


def admin_addresses() -> list[str]:
    """Addresses of the machines that deploy, which are exempt from the limit on ssh."""
    return ADMIN_ADDRESSES.read_text().split() if ADMIN_ADDRESSES.exists() else []


def let_in(table: str) -> set[str]:
    """Ports that the kernel's table opens, such as `8000/tcp from 10.0.0.0/8`."""
    return {port_spec(rule.split()) for rule, _ in LETS_IN.findall(table)}


def limited(table: str) -> set[str]:
    """Those of them for which the number of connections is limited."""
    return {port_spec(rule.split()) for rule, to in LETS_IN.findall(table) if to != "ACCEPT"}


def port_spec(words: list[str]) -> str:
    """An iptables rule in the words of `firewall_allow`; one of another kind as it is."""
    options = dict(zip(words[::2], words[1::2], strict=False))
    if not {"-p", "--dport"} <= set(options) <= {"-p", "-m", "--dport", "-s"}:
        return f"0/{' '.join(words) or 'all'}"
    source = re.sub(r"/(32|128)$", "", options.get("-s", ""))
    return f"{options['--dport']}/{options['-p']}" + (f" from {source}" if source else "")


@check("Network", "Bans", "audit")
def bans(system: System) -> Finding:
    if not system.settings["bans"]:
        return warn("off, as bans = False has it", "bans = True, and deploy")
    flower = {"celery-pi-flower"} if system.settings["flower"] else set()
    expected = {"sshd", *flower}
    listing = output("fail2ban-client", "status").partition("Jail list:")[2]
    jails = {name.strip() for name in listing.split(",")}
    if missing := sorted(expected - jails):
        return wrong(f"nobody watches {', '.join(missing)}", "deploy again", jails=sorted(jails))
    return ok(", ".join(sorted(expected)), jails=sorted(jails))


def sockets(table: str) -> list[tuple[str, int]]:
    """Address and port of each socket that listens, of a table of /proc/net."""
    lines = (line.split() for line in table.splitlines()[1:])
    return [parsed(words[1]) for words in lines if words[3] == LISTENS]


def parsed(local: str) -> tuple[str, int]:
    """The kernel writes an address as words of 32 bits in the machine's own order of bytes."""
    address, port = local.split(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def is_loopback(address: str) -> bool:
    return address == "::1" or address.removeprefix("::ffff:").startswith("127.")
