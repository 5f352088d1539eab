"""What an owner may type as `HOST`: a machine's name or address, a user, a port."""

from __future__ import annotations

import pytest
from pyinfra.api import DeployError

from celery_pi.ssh import ssh_host


@pytest.mark.parametrize(
    ("typed", "name", "user", "port"),
    [
        ("pi@raspberrypi.local", "raspberrypi.local", "pi", None),
        ("raspberrypi.local", "raspberrypi.local", None, None),
        ("pi@192.168.1.7:2222", "192.168.1.7", "pi", 2222),
        ("pi@fd00::7", "fd00::7", "pi", None),
        ("pi@[fd00::7]", "fd00::7", "pi", None),
        ("pi@[fd00::7]:2222", "fd00::7", "pi", 2222),
        ("[fd00::7]:2222", "fd00::7", None, 2222),
        ("pi@::1", "::1", "pi", None),
        ("pi@fe80::1%eth0", "fe80::1%eth0", "pi", None),
    ],
)
def test_address_is_taken_apart(typed: str, name: str, user: str | None, port: int | None) -> None:
    host, data = ssh_host(typed)
    assert (host, data["ssh_hostname"]) == (name, name)
    assert (data.get("ssh_user"), data.get("ssh_port")) == (user, port)


@pytest.mark.parametrize(("typed", "sudo"), [("pi@pi", True), ("pi", True), ("root@pi", False)])
def test_sudo_is_for_whoever_is_not_root(typed: str, sudo: bool) -> None:
    assert ssh_host(typed)[1]["_sudo"] is sudo


@pytest.mark.parametrize(
    "typed", ["pi@host:ssh", "pi@[fd00::7", "pi@", "pi@[fd00::7]22", "h:70000"]
)
def test_what_is_no_address_is_refused_with_a_sentence(typed: str) -> None:
    with pytest.raises(DeployError, match="is no address of a machine: HOST=pi@address") as told:
        ssh_host(typed)
    assert "\n" not in str(told.value)
