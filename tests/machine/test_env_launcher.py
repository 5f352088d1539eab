"""`with-env-file` against systemd itself, and what a `.env` that is a trap does to the machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, pids, prove, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

ENV = f"{APP}/.env"
CASES = 150

# Texts of the characters that mean something, each given to both, compared by what a program sees.
COMPARE = """
import json, random, subprocess, sys
random.seed(14)
parts = ["A", "B1", "=", "=", " ", "\\t", "\\n", "\\n", "'", '"', "\\\\", "\\\\\\n", "#", ";"]
parts += ["$x", "`", "\\r", "x y", "é"]
path, differing = "/root/env", []
for _ in range(int(sys.argv[1])):
    text = "".join(random.choices(parts, k=random.randint(1, 25)))
    with open(path, "w", newline="") as file:
        file.write(text)
    of_systemd = ("INVOCATION_ID", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WATCH")
    env = ("/usr/bin/env", *(f"--unset={name}" for name in of_systemd), "-0")
    run = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect")
    theirs = subprocess.run((*run, f"-pEnvironmentFile={path}", *env), capture_output=True)
    ours = subprocess.run(
        (*run, "/usr/local/lib/celery-pi/with-env-file", path, *env),
        capture_output=True,
    )
    both = [set(done.stdout.split(b"\\0")) for done in (theirs, ours)]
    if both[0] != both[1]:
        differing.append([text, *(sorted(map(repr, each)) for each in both)])
print(json.dumps(differing))
"""


def test_every_text_means_what_it_means_to_systemd(pi: VirtualPi) -> None:
    told = pi.run("python3", "-c", COMPARE, str(CASES), timeout=200).stdout
    pi.run("rm", "/root/env")
    assert json.loads(told) == []


@pytest.fixture
def env(pi: VirtualPi) -> Iterator[str]:
    """The app's `.env`, put back afterwards, with services that run by it."""
    pi.run("cp", "-p", ENV, "/root/env-kept")
    yield ENV
    pi.run("sh", "-c", f"rm -rf {ENV}; cp -p /root/env-kept {ENV}; rm /root/env-kept")
    pi.run("systemctl", "restart", "celery-worker", "celery-beat")
    assert "SUCCESS" in prove(pi)


TRAPS = {
    f"mkfifo {ENV}; chown www-data: {ENV}": "is no regular file",
    f"ln -s /dev/zero {ENV}": "is no regular file",
    f"ln -s /etc/celery-pi/flower.env {ENV}": "cannot be read: Permission denied",
    f"truncate -s 8G {ENV}; chown www-data: {ENV}": "is larger than 1048576 bytes",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_trap_in_its_place_costs_the_service_and_nothing_else(
    pi: VirtualPi, env: str, trap: str
) -> None:
    """By EnvironmentFile= the FIFO stops the machine, and the link shows a file of root's."""
    before = pids(pi)
    pi.run("sh", "-c", f"rm {env}; {trap}")
    pi.run("systemctl", "restart", "--no-block", "celery-worker")

    def told() -> bool:
        shown = pi.run("journalctl", "-q", "-o", "cat", "-u", "celery-worker", "-n", "20").stdout
        return f"celery-pi: {env} {TRAPS[trap]}" in shown

    wait_for("the worker's sentence", told)
    answered = pi.run("systemctl", "show", "-P", "MainPID", "redis-server", timeout=10).stdout
    assert answered.strip() == before["redis-server"]


def test_control_systemd_itself_shows_roots_file_to_the_service(pi: VirtualPi) -> None:
    pi.run("ln", "-sfn", "/etc/celery-pi/flower.env", "/srv/env-link")
    run = ("systemd-run", "--quiet", "--pipe", "--wait", "-pUser=www-data")
    shown = pi.run(*run, "-pEnvironmentFile=/srv/env-link", "/usr/bin/env").stdout
    refused = pi.run(
        *run, "/usr/local/lib/celery-pi/with-env-file", "/srv/env-link", "/usr/bin/env", check=False
    )
    pi.run("rm", "/srv/env-link")
    assert "CELERY_PI_FLOWER_LOGIN=" in shown
    assert refused.stdout == ""
