"""A client on the network who guesses passwords, or sends packets in another's name."""

from __future__ import annotations

import socket
import struct
import time
from base64 import b64encode

import pytest

from tests.attacks.attacker import Victim
from tests.helpers.harness import wait_for
from tests.helpers.site import ask, login, trusting

pytestmark = pytest.mark.native

GUESSES = 12
JAIL = ("fail2ban-client", "get", "celery-pi-flower", "banip")


def guess(victim: Victim, number: int) -> bool:
    """A wrong login, whose client hangs up and does not wait for an answer; whether he got in."""
    wrong = b64encode(f"flower:wrong-{number}".encode()).decode()
    asked = f"GET /flower/ HTTP/1.1\r\nHost: raspberrypi\r\nAuthorization: Basic {wrong}\r\n\r\n"
    try:
        plain = socket.create_connection((victim.pi.address, 443), 3)
        with trusting().wrap_socket(plain) as there:
            there.sendall(asked.encode())
            time.sleep(0.15)  # nginx has read it, and waits before it answers
    except OSError:
        return False
    return True


def unseen_guesses(victim: Victim) -> str:
    """Twice as many wrong ones as are allowed, and then the right one."""
    try:
        made = sum(guess(victim, number) for number in range(GUESSES))
        try:
            wait_for("he is banned", lambda: victim.sh('"$@"', *JAIL).strip(), 6)
        except AssertionError:
            status = ask(victim.pi, "/flower/", login(victim.pi)).status
            return f"{made} wrong guesses, none counted, and then {status}"
    finally:
        victim.root("fail2ban-client", "unban", "--all")
    assert made >= 2, "he was banned before"
    return ""


def test_a_guess_counts_though_the_client_hangs_up(victim: Victim) -> None:
    victim.judge(unseen_guesses(victim))


SSH = 22
PACKETS = 12  # twice as many as a limit of ufw's lets in within 30 s


def first_packet(source: str, target: str, number: int) -> bytes:
    """What begins a connection to ssh, as whoever likes may send it in the name of `source`."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    ports = struct.pack("!HHLL", 40000 + number, SSH, number, 0)
    rest = struct.pack("!BBH", 5 << 4, 2, 64240)
    sum_of = checksum(
        ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20) + ports + rest + b"\0" * 4
    )
    tcp = ports + rest + struct.pack("!HH", sum_of, 0)
    head = struct.pack("!BBHHHBBH", 4 << 4 | 5, 0, 40, number, 0, 64, socket.IPPROTO_TCP, 0)
    return head + ends + tcp


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def locked_out(victim: Victim) -> str:
    """Packets that bear this host's address, none of which it has a connection of; whether it is
    still let in."""
    with socket.create_connection((victim.pi.address, SSH), 5) as there:
        here = there.getsockname()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as wire:
        for number in range(PACKETS):
            wire.sendto(first_packet(here, victim.pi.address, number), (victim.pi.address, 0))
    try:
        socket.create_connection((victim.pi.address, SSH), 5).close()
    except OSError as error:
        return f"{here} is kept from ssh by what others have sent: {error}"
    return ""


def test_nobody_is_locked_out_of_ssh_in_his_name(victim: Victim) -> None:
    victim.judge(locked_out(victim))
