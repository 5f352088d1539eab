"""A real Pi is reached over ssh with sudo; here the virtual one is, by its own sshd."""

from __future__ import annotations

from pathlib import Path

from tests.harness import Outcome, run
from tests.virtual_pi import VirtualPi


def make(target: str, pi: VirtualPi, home: Path) -> Outcome:
    return run("make", target, f"HOST=pi@{pi.address}", HOME=str(home))


def test_deploy_over_ssh_changes_nothing_that_docker_deployed(pi: VirtualPi, home: Path) -> None:
    outcome = make("deploy", pi, home)
    assert outcome.status == 0, outcome.output
    total = next(line for line in outcome.output.splitlines() if "Grand total" in line).split()
    hosts, success, error, unchanged = total[2:]
    assert (success, error, unchanged) == ("-", "-", hosts)
    assert "SUCCESS in" in outcome.output


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
