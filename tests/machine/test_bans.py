"""Bans, seen from another machine of the network: who is banned, who is not, what is forged."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import pytest

from tests.helpers.harness import deploy, pids, wait_for
from tests.helpers.site import login
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

TRIES = 3
SECONDS = 20
JAILS = {"sshd": 22, "celery-pi-flower": 443}
VICTIM = "203.0.113.7"
LOG = "/var/log/fail2ban.log"
ERRORS = "/var/log/nginx/error.log"
FILTERS = "/etc/fail2ban/filter.d"

# One login, from an address of this machine's; then, if asked, how long that address is refused and
# whether another is meanwhile.
CLIENT = """
import base64, http.client, json, socket, ssl, subprocess, sys, time
jail, port, target, source, who, other = json.load(sys.stdin)

def opens(source):
    try:
        socket.create_connection((target, port), 5, (source, 0)).close()
        return True
    except OSError:
        return False

def until(state):
    start = time.monotonic()
    while opens(source) is not state:
        if time.monotonic() - start > 180:
            sys.exit("it never came to that")
        time.sleep(0.2)
    return time.monotonic() - start

def flower():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    there = http.client.HTTPSConnection(
        target, timeout=30, context=context, source_address=(source, 0))
    login = "Basic " + base64.b64encode(who.encode()).decode()
    there.request("GET", "/flower/", headers={"Authorization": login} if who else {})
    return there.getresponse().status

def ssh():
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    command = ["ssh", "-b", source, *("-o" + option for option in options)]
    done = subprocess.run([*command, f"{who}@{target}", "true"], capture_output=True, text=True)
    return "Permission denied" in done.stderr

said = {22: ssh, 443: flower}[port]()
if other:
    until(False)
    said = [opens(other), until(True)]
print(json.dumps(said))
"""


class Outside:
    """Another machine of the network, with several addresses."""

    def __init__(self, machine: VirtualPi, pi: VirtualPi) -> None:
        self.machine, self.pi = machine, pi
        own = ipaddress.ip_interface(
            machine.run("sh", "-c", "ip -o -4 addr show eth0 | awk '{ print $4 }'").stdout.strip()
        )
        self.network = str(own.network)
        # In the upper half, from which Docker gives none to others.
        first = own.network.network_address + own.network.num_addresses // 2 + int(own) % 256 * 8
        names = (*JAILS, "neighbour", "ignored", "forger")
        self.addresses = {name: str(first + number) for number, name in enumerate(names)}
        for address in self.addresses.values():
            length = own.network.prefixlen
            machine.run("ip", "addr", "add", f"{address}/{length}", "dev", "eth0")

    def ask(self, jail: str, who: str, source: str = "", other: str = "") -> Any:
        """What the Pi says to that login from the address of that name, by default the jail's.

        With `other`, instead: whether that one is let in while the former is refused, and for how
        many seconds it is.
        """
        named = (self.addresses[source or jail], who, other and self.addresses[other])
        given = json.dumps([jail, JAILS[jail], self.pi.address, *named]).encode()
        return json.loads(self.machine.run("python3", "-c", CLIENT, input=given).stdout)


@pytest.fixture(scope="module")
def outside(pi: VirtualPi) -> Iterator[Outside]:
    machine = VirtualPi(f"{pi.name}-outside", pi.platform)
    machine.down()
    machine.up()
    yield Outside(machine, pi)
    machine.down()


@pytest.fixture(scope="module")
def strict(pi: VirtualPi, outside: Outside) -> Iterator[dict[str, object]]:
    """The settings of a machine that is quick to ban. The firewall lets the network in, so that
    nothing but a ban refuses it."""
    settings = {
        "ban_tries": TRIES,
        "ban_seconds": SECONDS,
        "ban_ignore": outside.addresses["ignored"],
    }
    changed = {"Bans | Configure", "Bans | Run", "Command | Install celery-pi"}
    assert deploy(pi, **settings).changed == changed
    pi.run("ufw", "insert", "1", "allow", "from", outside.network)
    yield settings
    pi.run("ufw", "delete", "allow", "from", outside.network)
    assert deploy(pi).status == 0


def status(pi: VirtualPi, jail: str, what: str) -> str:
    """What fail2ban tells of a jail, such as `Total failed`."""
    found = re.search(rf"{what}:\s*(.*)", pi.run("fail2ban-client", "status", jail).stdout)
    assert found
    return found[1]


def right(pi: VirtualPi) -> dict[str, tuple[str, object]]:
    """For each jail a login that is let in, and what it is answered."""
    return {"celery-pi-flower": (login(pi), 200)}


WRONG = {"sshd": ("nobody-here", True), "celery-pi-flower": ("flower:wrong", 401)}


def test_settled_machine_is_left_alone(pi: VirtualPi, strict: dict[str, object]) -> None:
    assert deploy(pi, **strict).changed == set()


def besiege(pi: VirtualPi, outside: Outside, jail: str) -> tuple[bool, float]:
    """Fail to log in as often as leads to a ban; what came of it."""
    who, answer = WRONG[jail]
    for _ in range(TRIES - 1):
        assert outside.ask(jail, who) == answer
    wait_for("they count", lambda: int(status(pi, jail, "Total failed")) == TRIES - 1, 60)
    assert outside.addresses[jail] not in status(pi, jail, "Banned IP list")
    let_in, seconds = outside.ask(jail, who, other="neighbour")
    return let_in, seconds


@pytest.mark.usefixtures("strict")
def test_address_is_banned_after_so_many_tries_and_for_so_long(
    pi: VirtualPi, outside: Outside
) -> None:
    """Nobody else is, nor who logs in rightly, nor a browser that has yet to ask for the login."""
    with ThreadPoolExecutor(len(JAILS)) as pool:
        sieges = {jail: pool.submit(besiege, pi, outside, jail) for jail in JAILS}
        for _ in range(TRIES):
            for jail, (who, answer) in right(pi).items():
                assert outside.ask(jail, who, "neighbour") == answer
            assert outside.ask("celery-pi-flower", "", "neighbour") == 401
        ended = {jail: siege.result() for jail, siege in sieges.items()}
    for jail, (let_in, seconds) in ended.items():
        assert let_in, jail
        assert seconds > SECONDS / 2, jail
        assert status(pi, jail, "Total banned") == "1"
        assert status(pi, jail, "Total failed") == str(TRIES)
        assert f"[{jail}] Ban {outside.addresses[jail]}" in pi.run("cat", LOG).stdout


@pytest.mark.usefixtures("strict")
def test_address_of_the_owners_and_loopback_are_never_banned_but_told(
    pi: VirtualPi, outside: Outside
) -> None:
    who, answer = WRONG["celery-pi-flower"]
    with ignored_but_told(pi, outside.addresses["ignored"]):
        for _ in range(TRIES + 1):
            assert outside.ask("celery-pi-flower", who, "ignored") == answer
    with ignored_but_told(pi, "127.0.0.1"):
        for _ in range(TRIES + 1):
            pi.run("curl", "-ksu", who, "https://127.0.0.1/flower/")


@contextmanager
def ignored_but_told(pi: VirtualPi, address: str) -> Iterator[None]:
    """What is done inside fails to log in so often from there."""

    def seen() -> int:
        return pi.run("cat", LOG).stdout.count(f"[celery-pi-flower] Ignore {address} by ")

    before = told(pi, address), seen()
    yield
    wait_for("they are told", lambda: told(pi, address) == before[0] + TRIES + 1)
    wait_for("they are seen", lambda: seen() == before[1] + TRIES + 1)
    assert f"Ban {address}" not in pi.run("cat", LOG).stdout


def told(pi: VirtualPi, address: str) -> int:
    """How many failed logins to Flower from there are in the journal."""
    pi.run("journalctl", "--sync")
    lines = pi.run("journalctl", "-q", "-o", "cat", "-t", "celery_pi_flower").stdout.splitlines()
    return lines.count(f"failed login to Flower from {address}")


def matched(pi: VirtualPi, log: str, name: str) -> set[str]:
    """Addresses that a filter finds in a log."""
    command = ("fail2ban-regex", "-o", "ip", log, f"{FILTERS}/{name}.conf")
    return set(pi.run(*command, check=False).stdout.split())


@pytest.mark.usefixtures("strict")
def test_no_client_can_have_another_banned(pi: VirtualPi, outside: Outside) -> None:
    """By what it sends as a name or asks for, nor can a user of the Pi's by what he logs."""
    now = pi.run("date", "+%Y/%m/%d %H:%M:%S").stdout.strip()
    tag, line = "celery_pi_flower", f"failed login to Flower from {VICTIM}"
    pi.run("logger", "-t", tag, line, user="pi")
    lines = [
        f"raspberrypi {tag}[1]: {line}",
        f'{now} [error] 1#1: *1 user "x": password mismatch, client: {VICTIM}, server: x, '
        'request: "GET / HTTP/1.1", host: "x"',
    ]
    forged = "\n" + "\n".join(lines) + "\n"
    outside.ask("celery-pi-flower", forged.replace(":", ";") + ":x", "forger")
    there = HTTPConnection(pi.address, timeout=30)
    path = f"/.well-known/acme-challenge/{quote(forged, safe='')}"
    named = {"Host": "raspberrypi", "User-Agent": lines[0]}
    there.request("GET", path, headers=named)
    assert there.getresponse().status == 404

    forger = outside.addresses["forger"]
    jail = "celery-pi-flower"
    found = wait_for(
        "the forger is found",
        lambda: {forger} & (seen := matched(pi, "systemd-journal", jail)) and seen,
    )
    assert VICTIM not in found
    assert VICTIM not in status(pi, jail, "Banned IP list")
    assert VICTIM in matched(pi, ERRORS, "nginx-http-auth"), "fail2ban's own filter believes it"


@pytest.mark.usefixtures("strict")
def test_only_root_speaks_for_sshd(pi: VirtualPi) -> None:
    said = ("logger", "-t", "sshd", f"Invalid user x from {VICTIM} port 7")
    before = status(pi, "sshd", "Total failed")
    for _ in range(TRIES):
        pi.run(*said, user="pi")
    time.sleep(3)
    assert status(pi, "sshd", "Total failed") == before
    for _ in range(TRIES):
        pi.run(*said)
    wait_for("root is believed", lambda: VICTIM in status(pi, "sshd", "Banned IP list"))
    wait_for("it is over", lambda: VICTIM not in status(pi, "sshd", "Banned IP list"), 60)


# What deploys of before November 2026 have put there for a jail of Redis'.
FORMER = {
    "/usr/local/lib/celery-pi/redis-logins": "#!/bin/sh\n# Managed by celery-pi\nexec sleep 600\n",
    f"{FILTERS}/celery-pi-redis.conf": "# Managed by celery-pi\n[Definition]\n"
    "failregex = ^failed login to Redis from <ADDR>$\njournalmatch = _SYSTEMD_UNIT=x.service\n",
    "/etc/systemd/system/redis-logins.service": "# Managed by celery-pi\n[Unit]\n"
    "BindsTo=redis-server.service\nAfter=redis-server.service\n[Service]\n"
    "ExecStart=/usr/local/lib/celery-pi/redis-logins\nRuntimeDirectory=redis-logins\n"
    "RuntimeDirectoryPreserve=yes\n[Install]\nWantedBy=redis-server.service\n",
    "/run/redis-logins/told.json": "[]\n",
}
SANDBOX = "/etc/systemd/system/fail2ban.service.d/celery-pi.conf"
JAIL_FILE = "/etc/fail2ban/jail.d/zz-celery-pi.conf"
FORMER_JAIL = "[celery-pi-redis]\nenabled = true\nfilter = celery-pi-redis\nbackend = systemd\n"


def test_jail_of_redis_that_former_deploys_had_is_removed(
    pi: VirtualPi, strict: dict[str, object]
) -> None:
    for path, text in FORMER.items():
        pi.run("sh", "-c", f"mkdir -p $(dirname {path}); cat >{path}", input=text.encode())
    pi.run("chmod", "755", next(iter(FORMER)))
    pi.run("sh", "-c", f"cat >>{JAIL_FILE}", input=FORMER_JAIL.encode())
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "enable", "--now", "redis-logins")
    pi.run("systemctl", "reload", "fail2ban")
    wait_for("it is there", lambda: "celery-pi-redis" in pi.run("fail2ban-client", "status").stdout)
    redis_pid = pids(pi)["redis-server"]

    assert deploy(pi, **strict).changed == {
        *("Bans | Configure", "Bans | Run", "Bans | Remove the watch over Redis' logins"),
    }

    shown = pi.run("systemctl", "show", "-p", "LoadState,ActiveState", "redis-logins").stdout
    assert set(shown.split()) == {"LoadState=not-found", "ActiveState=inactive"}
    found = pi.run("find", *FORMER, "/etc/systemd/system/redis-server.service.wants", check=False)
    assert "redis-logins" not in found.stdout
    assert "celery-pi-redis" not in pi.run("fail2ban-client", "status").stdout
    assert pids(pi)["redis-server"] == redis_pid
    assert deploy(pi, **strict).changed == set()


def test_switched_off_nothing_of_it_is_left_and_it_comes_back(pi: VirtualPi) -> None:
    before = installed(pi)
    assert before >= {JAIL_FILE, f"{FILTERS}/celery-pi-flower.conf", SANDBOX}
    assert deploy(pi, bans=False).changed == {
        *("Bans | Remove", "Bans | Run without them", "Command | Install celery-pi"),
        "Firewall | Close all ports but the declared",  # which limits ssh instead
    }
    assert installed(pi) == set()
    assert "celery-pi" not in pi.run("fail2ban-client", "status").stdout
    assert deploy(pi, bans=False).changed == set()
    assert deploy(pi).status == 0
    assert installed(pi) == before


OWNERS = "/etc/fail2ban/jail.local"
HIS = "[DEFAULT]\nbantime = 3600\nignoreip = 192.0.2.0/24\n\n[sshd]\nmaxretry = 3\n"


def of_jail(pi: VirtualPi, jail: str, what: str) -> str:
    """What fail2ban itself goes by."""
    return pi.run("fail2ban-client", "get", jail, what).stdout.strip()


def test_what_the_owner_has_said_of_ssh_holds_with_our_bans_and_without(pi: VirtualPi) -> None:
    """The other jail, which is ours, is the control: it has our times."""
    assert of_jail(pi, "sshd", "bantime") == "600"
    pi.run("sh", "-c", f"cat >{OWNERS}", input=HIS.encode())
    try:
        pi.run("systemctl", "restart", "fail2ban")
        assert deploy(pi).status == 0
        assert deploy(pi).changed == set()
        asked = ("bantime", "maxretry", "findtime")
        assert [of_jail(pi, "sshd", what) for what in asked] == ["3600", "3", "600"]
        assert [of_jail(pi, "celery-pi-flower", what) for what in asked] == ["600", "5", "600"]
        assert "192.0.2.0/24" in of_jail(pi, "sshd", "ignoreip")
        assert deploy(pi, bans=False).status == 0
        assert of_jail(pi, "sshd", "bantime") == "3600"
        assert of_jail(pi, "sshd", "maxretry") == "3"
    finally:
        pi.run("rm", OWNERS)
        assert deploy(pi).status == 0
    assert of_jail(pi, "sshd", "bantime") == "600"


def installed(pi: VirtualPi) -> set[str]:
    """What a deploy puts on the disk."""
    ours = re.compile(r"fail2ban.*celery-pi|celery-pi.*fail2ban")
    found = pi.run("find", "/etc", "/usr/local", "/var/lib/celery-pi", "-not", "-type", "d").stdout
    return {path for path in found.splitlines() if ours.search(path)}
