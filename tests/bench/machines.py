"""Machines that nothing has been deployed to, and a way to reach them over ssh."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.harness import run
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.app import put_app


def fresh(pi: VirtualPi) -> VirtualPi:
    """A machine as `make up` leaves it."""
    pi.down()
    pi.up()
    put_app(pi)
    return pi


def home_for(place: Path, *machines: VirtualPi) -> Path:
    """A home directory with a key that the user of these machines accepts."""
    home = place / "home"
    key = home / ".ssh/id_ed25519"
    key.parent.mkdir(mode=0o700, parents=True)
    assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).status == 0
    script = "umask 077; mkdir -p ~/.ssh; cat >~/.ssh/authorized_keys"
    for machine in machines:
        machine.run("su", "pi", "-c", script, input=key.with_suffix(".pub").read_bytes())
    return home
