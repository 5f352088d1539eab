"""The firewall as another machine finds it, and as it mends itself, on ufw and the real kernel."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docker.types import IPAMConfig, IPAMPool

from tests.helpers.harness import PYINFRA, Outcome, deploy, pyinfra, run, wait_for
from tests.helpers.scan import open_ports, reaches
from tests.helpers.status_output import ask
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.engine import connect

pytestmark = pytest.mark.native

CLOSE = "Firewall | Close all ports but the declared"
ALONE = ("inventory.py", "tasks.firewall.deploy")
REDIS = ("redis-server", "--port", "6399", "--bind", "* -::*", "--protected-mode", "no")
SAVE = (
    "iptables-save -t filter; ip6tables-save -t filter; ufw status verbose;"
    "grep -h -v '^#' /etc/ufw/*.rules /etc/ufw/ufw.conf /etc/default/ufw"
)
# ufw itself leaves these behind when IPv6 was off and is on again.
LEFT_BY_UFW = ("-A INPUT -i lo -j ACCEPT", "-A OUTPUT -o lo -j ACCEPT")


def alone(pi: VirtualPi, *how: str, **settings: object) -> Outcome:
    """The component alone, which takes seconds; `-y` unless it is said how else."""
    data = [word for key, value in settings.items() for word in ("--data", f"{key}={value}")]
    return pyinfra(pi, "--json", *(how or ("-y",)), *data, *ALONE)


def firewall(pi: VirtualPi) -> list[str]:
    """All that is in force and written down, without the counters."""
    shown = pi.run("sh", "-c", SAVE).stdout.splitlines()
    ours = (line for line in shown if line not in LEFT_BY_UFW and not line.startswith("# "))
    return sorted(re.sub(r" \[\d+:\d+\]", "", line) for line in ours)


def sh(pi: VirtualPi, script: str) -> str:
    return pi.run("sh", "-c", script).stdout


@contextmanager
def network(*machines: VirtualPi) -> Iterator[dict[str, str]]:
    """A network with IPv6 between machines; yields the address of each by its name."""
    pool = IPAMPool(subnet="fd3c:e1e7::/64")
    name = f"{machines[0].name}-ipv6"
    made = connect().networks.create(name, enable_ipv6=True, ipam=IPAMConfig(pool_configs=[pool]))
    try:
        for machine in machines:
            made.connect(machine.name)
        made.reload()
        ends = {every.name: every for every in connect().containers.list()}
        yield {
            machine.name: ends[machine.name].attrs["NetworkSettings"]["Networks"][name][
                "GlobalIPv6Address"
            ]
            for machine in machines
        }
    finally:
        for machine in machines:
            made.disconnect(machine.name, force=True)
        made.remove()


def test_no_service_was_started_before_the_firewall(pi: VirtualPi) -> None:
    """Though all packages are installed first: what they would start waits for its component."""

    def first_start(unit: str) -> float:
        words = ("-u", unit, "-o", "short-unix", "--grep", "^Start(ing|ed) ")
        return float(pi.run("journalctl", "-q", *words).stdout.split()[0])

    firewall_was_up = first_start("ufw.service")
    for unit in ("redis-server.service", "nginx.service", "fail2ban.service"):
        assert first_start(unit) > firewall_was_up, unit


def test_scan_of_all_ports_finds_ssh_and_the_site_alone(
    pi: VirtualPi, fresh_native_pi: VirtualPi
) -> None:
    """Also while a Redis listens on all addresses, which is found once the firewall is off."""
    pi.run("systemd-run", "--quiet", "--unit=careless", *REDIS)
    with network(pi, fresh_native_pi) as addresses:
        ends = (pi.address, addresses[pi.name])
        wait_for("Redis listens", lambda: len(sh(pi, "ss -Htln sport = :6399").split("\n")) > 2)
        for address in ends:
            assert open_ports(fresh_native_pi, address) == {22, 80, 443}
        told = ask(pi, "audit")
        assert told["Listening TCP sockets"]["ports"] == [6399]
        assert "Listening TCP sockets" in told.names("wrong")
        pi.run("ufw", "disable")
        for address in ends:
            assert reaches(fresh_native_pi, address, 6399), "the tests above show nothing"
        assert alone(pi).changed == {CLOSE}
        for address in ends:
            assert not reaches(fresh_native_pi, address, 6399)
    pi.run("systemctl", "stop", "careless")


# What touches different things is broken together; what the kernel alone has lost, by itself.
DRIFTS = {
    "written down": (
        "ufw default allow incoming; ufw default reject outgoing; ufw logging full;"
        "ufw delete allow 22/tcp; ufw deny 80/tcp; ufw limit 443/tcp;"
        "sed -i s/IPV6=yes/IPV6=no/ /etc/default/ufw; ufw reload; ufw disable;"
        "systemctl disable --now --quiet ufw"
    ),
    "chains emptied": "iptables -P INPUT ACCEPT; iptables -F; ip6tables -P INPUT ACCEPT",
    "chains removed": "for v in '' 6; do ip${v}tables -P INPUT ACCEPT; ip${v}tables -F;"
    "ip${v}tables -X; done",
    "one rule gone from the kernel": "ip6tables -D ufw6-user-input -p tcp --dport 443 -j ACCEPT",
    "rules of IPv6 lost": "sed -i '/tuple/,+1d' /etc/ufw/user6.rules; ufw reload",
    "edited, not loaded": "sed -i s/yes/no/ /etc/ufw/ufw.conf",
}


@pytest.mark.parametrize("break_it", DRIFTS.values(), ids=DRIFTS.keys())
def test_drift_is_planned_and_mended(pi: VirtualPi, break_it: str) -> None:
    before = firewall(pi)
    sh(pi, break_it)
    assert firewall(pi) != before
    broken = firewall(pi)
    assert alone(pi, "--dry").planned == {CLOSE}
    assert firewall(pi) == broken, "a plan changes nothing"
    assert alone(pi).changed == {CLOSE}
    assert firewall(pi) == before


def test_rules_and_chains_of_others_stay_and_go_only_with_the_setting(pi: VirtualPi) -> None:
    before = firewall(pi)
    sh(pi, "iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; ufw allow 9999/tcp")
    sh(pi, "ufw insert 1 deny from 203.0.113.9; ufw route allow in on eth0 out on eth1 to any")
    sh(pi, "ufw allow in on eth0 log proto udp from fd00::/8 port 53 to any port 60:70")
    theirs = firewall(pi)
    told = alone(pi)
    assert told.changed == set()
    assert told.stderr.count("a rule that is not declared") == 6
    assert "allow in proto tcp from ::/0 to ::/0 port 9999" in told.stderr
    assert firewall(pi) == theirs
    sh(pi, "ufw disable")
    assert alone(pi).changed == {CLOSE}
    assert firewall(pi) == theirs
    assert alone(pi, firewall_only_ours=True).changed == {CLOSE}
    assert alone(pi, firewall_only_ours=True).changed == set()
    sh(pi, "iptables -D FORWARD -j DOCKER-USER && iptables -X DOCKER-USER")
    assert firewall(pi) == before


def test_port_of_the_owners_is_open_while_he_declares_it(
    pi: VirtualPi, fresh_native_pi: VirtualPi
) -> None:
    pi.run("systemd-run", "--quiet", "--unit=web", "python3", "-m", "http.server", "8000")
    wait_for("it listens", lambda: sh(pi, "ss -Htln sport = :8000"))
    before = firewall(pi)
    allow = f"8000/tcp from {fresh_native_pi.address},5353/udp"
    assert alone(pi, firewall_allow=allow).changed == {CLOSE}
    assert alone(pi, firewall_allow=allow).changed == set()
    assert reaches(fresh_native_pi, pi.address, 8000)
    assert alone(pi, firewall_allow="8000/tcp from 192.0.2.0/24").changed == {CLOSE}
    assert not reaches(fresh_native_pi, pi.address, 8000)
    assert alone(pi).changed == {CLOSE}
    assert firewall(pi) == before
    pi.run("systemctl", "stop", "web")


def test_run_that_was_cut_off_before_it_loaded_the_rules_is_completed(pi: VirtualPi) -> None:
    before = firewall(pi)
    stub = '#!/bin/sh\ncase "$*" in *enable*) exit 1 ;; esac\nexec /usr/sbin/ufw "$@"\n'
    sh(pi, "ufw --force reset")
    pi.run(
        "sh", "-c", "cat >/usr/local/sbin/ufw; chmod +x /usr/local/sbin/ufw", input=stub.encode()
    )
    assert alone(pi).status == 1
    sh(pi, "rm /usr/local/sbin/ufw /etc/ufw/*.rules.*")
    assert alone(pi).changed == {CLOSE}
    assert firewall(pi) == before


SSHD = "/etc/ssh/sshd_config.d/port.conf"


def test_ssh_at_another_port_is_never_cut(pi: VirtualPi, home: Path) -> None:
    """Neither the session that deploys, nor one that is open meanwhile, nor the next."""
    before = firewall(pi)
    sh(pi, f"ufw disable; echo Port 2222 >{SSHD}; systemctl restart ssh")

    def over_ssh(*how: str) -> Outcome:
        there = f"pi@{pi.address}:2222"
        return run(PYINFRA, *how, "-y", *ALONE, CELERY_PI_HOST=there, HOME=str(home))

    ssh = ("ssh", "-p", "2222", "-i", home / ".ssh/id_ed25519", "-o", "StrictHostKeyChecking=no")
    known = ("-o", f"UserKnownHostsFile={home}/known", f"pi@{pi.address}")
    with subprocess.Popen(
        (*ssh, *known, "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdin
        assert session.stdout
        deny = "ufw insert 1 deny 2200:2300/tcp"
        sh(pi, f"ufw limit 2222/tcp; {deny}")
        refused = over_ssh()
        assert refused.status != 0
        assert "deny in proto tcp from 0.0.0.0/0 to 0.0.0.0/0 port 2200:2300` would" in (
            refused.output
        )
        assert "inactive" in pi.run("ufw", "status").stdout
        sh(pi, f"{deny.replace('insert 1', 'delete')}; ufw delete limit 2222/tcp; {deny}")
        assert over_ssh("--json").changed == {CLOSE}
        assert over_ssh("--json").changed == set()
        session.stdin.write("still here\n")
        session.stdin.flush()
        assert session.stdout.readline() == "still here\n"
        session.stdin.close()
    rules = pi.run("ufw", "status").stdout
    assert re.search(r"^2222/tcp +ALLOW", rules, re.MULTILINE)
    assert "22/tcp " not in rules.replace("2222/tcp", "")
    sh(pi, f"{deny.replace('insert 1', 'delete')}; rm {SSHD}; systemctl restart ssh")
    assert alone(pi).changed == {CLOSE}
    assert firewall(pi) == before


def written(pi: VirtualPi) -> list[str]:
    """What ufw has written down: while it is off, nothing leads to its chains in the kernel."""
    return sorted(sh(pi, SAVE.partition("ip6tables-save -t filter;")[2]).splitlines())


TRIES = 8  # more than a limit lets in


def tries(machine: VirtualPi, pi: VirtualPi) -> list[bool]:
    """Whether each of so many connections to ssh, one right after the other, comes in."""
    return [reaches(machine, pi.address, 22) for _ in range(TRIES)]


def test_who_deploys_is_not_locked_out_and_without_bans_others_are(
    pi: VirtualPi, fresh_native_pi: VirtualPi
) -> None:
    """The last part is the control: with the limit alone, which was for all, they are."""
    before = firewall(pi)
    assert all(tries(fresh_native_pi, pi))
    pi.run("sh", "-c", "cat >/etc/celery-pi/deployers", input=b"")
    assert CLOSE in alone(pi, bans=False).changed
    assert not all(tries(fresh_native_pi, pi))
    pi.run(
        "sh", "-c", "cat >/etc/celery-pi/deployers", input=f"{fresh_native_pi.address}\n".encode()
    )
    assert CLOSE in alone(pi, bans=False).changed
    assert alone(pi, bans=False).changed == set()
    assert all(tries(fresh_native_pi, pi))
    told = ask(pi, "audit")
    assert "Firewall" not in told.names("warn")
    assert "Firewall" not in told.names("wrong")
    assert alone(pi).changed == {CLOSE}
    pi.run("rm", "/etc/celery-pi/deployers")
    assert firewall(pi) == before


HIS = """
ufw --force reset; rm -f /etc/ufw/*.rules.2* /var/lib/celery-pi/before/ufw
ufw default reject routed; ufw logging medium
ufw limit 22/tcp; ufw allow 80/tcp; ufw allow proto tcp from 0.0.0.0/0 to any port 443 comment web
ufw allow 8123/tcp
"""


@pytest.mark.parametrize("state", ["on", "off"])
def test_firewall_of_the_owners_is_his_again_when_ours_goes(pi: VirtualPi, state: str) -> None:
    """What he had allowed stays his, also where we want the same."""
    before = firewall(pi)
    sh(pi, HIS + ("ufw --force enable" if state == "on" else "ufw disable"))
    his = written(pi) if state == "off" else firewall(pi)
    rules = sh(pi, "ufw show added")
    assert alone(pi).changed == {CLOSE}
    assert alone(pi).changed == set()
    assert (written(pi) if state == "off" else firewall(pi)) != his
    added = sh(pi, "ufw show added")
    assert set(rules.splitlines()) <= set(added.splitlines()), "his are still his"
    assert added.count("comment 'celery-pi'") == 1
    assert alone(pi, firewall=False).changed == {"Firewall | Remove it"}
    assert sh(pi, "ufw show added") == rules
    assert (written(pi) if state == "off" else firewall(pi)) == his
    assert alone(pi, firewall=False).changed == set()
    sh(pi, "ufw --force reset; rm -f /etc/ufw/*.rules.2*")
    assert alone(pi).changed == {CLOSE}
    assert firewall(pi) == before


def test_without_a_firewall_ufw_is_off_and_has_no_rule_of_ours(pi: VirtualPi) -> None:
    before = firewall(pi)
    sh(pi, "ufw allow 9999/udp")
    assert alone(pi, firewall=False).changed == {"Firewall | Remove it"}
    assert "inactive" in pi.run("ufw", "status").stdout
    assert "'" not in pi.run("ufw", "show", "added").stdout.replace("'ufw status'", "")
    assert pi.run("ufw", "show", "added").stdout.count("\n") == 2
    assert alone(pi, firewall=False).changed == set()
    sh(pi, "ufw delete allow 9999/udp")
    assert alone(pi).changed == {CLOSE}
    assert firewall(pi) == before


def test_it_is_back_after_a_reboot_and_nothing_is_left_to_deploy(pi: VirtualPi) -> None:
    before = firewall(pi)
    pi.reboot()
    assert firewall(pi) == before
    assert deploy(pi).changed == set()
