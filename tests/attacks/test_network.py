"""A client on the network who guesses passwords."""

from __future__ import annotations

import socket
import time
from base64 import b64encode

import pytest

from tests.attacks.attacker import Victim
from tests.harness import wait_for
from tests.site import ask, login, trusting

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
