"""The virtual Pi is what it claims to be, and says in a sentence when it cannot be."""

from __future__ import annotations

import sys

from tests.conftest import make
from tests.helpers.harness import run
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.engine import connect
from tests.virtual_pi.image import image_name

MACHINES = {"linux/arm64": "aarch64", "linux/amd64": "x86_64"}


def test_image_and_machine_are_a_debian_13_of_the_platform_with_systemd(
    fresh_pi: VirtualPi, platform: str
) -> None:
    image = connect().images.get(image_name(platform)).attrs
    assert f"{image['Os']}/{image['Architecture']}" == platform
    assert fresh_pi.run("uname", "-m").stdout.strip() == MACHINES[platform]
    assert fresh_pi.run("hostname").stdout == "raspberrypi\n"
    assert fresh_pi.run("cat", "/proc/1/comm").stdout == "systemd\n"
    assert fresh_pi.run("systemctl", "is-system-running").stdout == "running\n"
    assert fresh_pi.run("systemctl", "--failed", "--no-legend").stdout == ""
    assert fresh_pi.run("sed", "-n", "s/^VERSION_ID=//p", "/etc/os-release").stdout == '"13"\n'


def test_user_pi_is_unprivileged_and_may_sudo(fresh_pi: VirtualPi) -> None:
    assert fresh_pi.run("id", "-u", user="pi").stdout != "0\n"
    assert fresh_pi.run("cat", "/etc/shadow", user="pi", check=False).returncode != 0
    assert fresh_pi.run("sudo", "-n", "id", "-u", user="pi").stdout == "0\n"


def test_make_up_changes_nothing_on_a_machine_that_is_up(fresh_pi: VirtualPi) -> None:
    started = fresh_pi.run("cut", "-d ", "-f22", "/proc/1/stat").stdout
    make("up", fresh_pi)
    assert fresh_pi.run("cut", "-d ", "-f22", "/proc/1/stat").stdout == started


def test_make_without_a_target_lists_them() -> None:
    listed = run("make").stdout
    for target in ("deploy", "plan", "up", "shell", "down", "test", "test-fast"):
        assert f"make {target} " in listed


def test_host_without_docker_gets_one_sentence() -> None:
    command = (sys.executable, "-m", "tests.virtual_pi", "down", "--name", "virtual-pi-none")
    outcome = run(*command, DOCKER_HOST="tcp://127.0.0.1:9")
    assert outcome.status == 1
    assert "Traceback" not in outcome.output
    assert len(outcome.stderr.strip().splitlines()) == 1


def test_make_shell_and_down_work(fresh_pi: VirtualPi) -> None:
    make("shell", fresh_pi)
    make("down", fresh_pi)
    assert connect().containers.list(all=True, filters={"name": f"^{fresh_pi.name}$"}) == []
