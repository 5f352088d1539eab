"""A real Pi is reached over ssh with sudo; here the virtual one is, by its own sshd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.harness import Outcome, run
from tests.virtual_pi import VirtualPi

# Emulated, each session costs seconds of sshd, PAM and sudo: one deploy took five minutes.
pytestmark = pytest.mark.native


def make(target: str, pi: VirtualPi, home: Path) -> Outcome:
    return run("make", target, f"HOST=pi@{pi.address}", HOME=str(home))


def test_deploy_over_ssh_only_notes_whence_it_comes(pi: VirtualPi, home: Path) -> None:
    """So that this machine is never banned; all else is as docker deployed it."""
    outcome = make("deploy", pi, home)
    assert outcome.status == 0, outcome.output
    total = next(line for line in outcome.output.splitlines() if "Grand total" in line).split()
    hosts, success, error, unchanged = total[2:]
    assert (success, error, int(unchanged)) == ("2", "-", int(hosts) - 2)
    assert "SUCCESS in" in outcome.output
    here = pi.run("sh", "-c", "ip route | awk '/^default/ { print $3 }'").stdout
    assert pi.run("cat", "/etc/celery-pi/deployers").stdout == here
    assert here.strip() in pi.run("fail2ban-client", "get", "sshd", "ignoreip").stdout


def test_drift_is_mended_over_ssh_with_sudo(pi: VirtualPi, home: Path) -> None:
    pi.run("sh", "-c", "rm /etc/systemd/system/celery-beat.service /etc/celery-pi/settings.json")
    outcome = make("deploy", pi, home)
    assert outcome.status == 0, outcome.output
    owner = pi.run("stat", "-c", "%U %a", "/etc/systemd/system/celery-beat.service").stdout
    assert owner == "root 644\n"


def test_plan_over_ssh_is_empty(pi: VirtualPi, home: Path) -> None:
    outcome = make("plan", pi, home)
    assert outcome.status == 0
    assert "Will " not in outcome.output
