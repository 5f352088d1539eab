"""Flower's login: `name:password`, on the Pi in a file that only root reads."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, cast

from pyinfra import host as current_host
from pyinfra.api import StringCommand, operation

from celery_pi.secrets import DIRECTORY, SHORTEST_TYPED, kept, new_password, supplied
from celery_pi.settings import Settings
from celery_pi.shell import announce_write, assign, read_quietly, replace_file

if TYPE_CHECKING:
    from pyinfra.api.host import Host

PATH = f"{DIRECTORY}/flower_login"

READ = r"""
[ ! -f "$path" ] || { stat -c %a:%U:%G "$path"; cat "$path"; }
"""


def flower_login(host: Host, settings: Settings) -> str:
    """Name and the password: the owner's, else the one on the Pi, else a new one for it.

    The same for the whole run.
    """
    if "celery_pi_flower_login" not in host.connector_data:
        _, stored = _read(host)
        password = kept(stored.partition(":")[2], SHORTEST_TYPED) or new_password()
        if settings.flower_password_file:
            password = supplied(settings.flower_password_file)
        host.connector_data["celery_pi_flower_login"] = f"{settings.flower_user}:{password}"
    return cast("str", host.connector_data["celery_pi_flower_login"])


@operation()
def login_file(login: str) -> Generator[StringCommand]:
    """The login is on the Pi, 0600 root."""
    if _read(current_host) == ("600:root:root", login):
        current_host.noop("the login is stored")
        return
    announce_write(current_host, PATH)
    yield StringCommand("install -d -m 0700 -o root -g root", DIRECTORY)
    yield replace_file(PATH, login.encode(), user="root", group="root", mode="0600")


def _read(host: Host) -> tuple[str, str]:
    mode, _, login = read_quietly(host, StringCommand(assign(path=PATH), READ)).partition("\n")
    return mode, login.rstrip("\n")
