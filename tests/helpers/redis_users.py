"""Many commands to the deployed Redis in one go, as one of its users."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.helpers.harness import APP
from tests.virtual_pi import VirtualPi

_VERDICT = re.compile(r"^OK$|no permissions to (run|access) ")
USERS = ("celery", "flower", "backup", "monitor", "admin")

_ASK = """
import json, sys
import redis

user, password, commands = json.load(sys.stdin)
socket = redis.UnixDomainSocketConnection(
    path="/run/redis-celery/redis.sock", username=user, password=password,
    lib_name=None, lib_version=None, decode_responses=True, protocol=2,
)

def ask(command):
    socket.send_command(*command)
    try:
        return socket.read_response()
    except redis.ResponseError as error:
        return f"{type(error).__name__}: {error}"

print(json.dumps([ask(command) for command in commands]))
"""


@dataclass(frozen=True)
class Command:
    """A command of the server, with as many words as it takes at least."""

    name: str
    words: list[str]
    has_keys: bool


def password_of(pi: VirtualPi, user: str) -> str:
    return pi.run("cat", f"/etc/celery-pi/secrets/redis_{user}_password").stdout


def ask(pi: VirtualPi, commands: Sequence[Sequence[str]], user: str = "admin") -> list[Any]:
    """Reply to each command; an error is its class and text."""
    asked = json.dumps([user, password_of(pi, user), commands]).encode()
    told = pi.run(f"{APP}/venv/bin/python", "-c", _ASK, input=asked).stdout
    replies: list[Any] = json.loads(told)
    return replies


def allowed(pi: VirtualPi, user: str, commands: Sequence[Sequence[str]]) -> list[bool]:
    """Whether the server would let the user run each of the commands with just these words."""
    return [reply == "OK" for reply in _dry_runs(pi, user, commands)]


def runnable(pi: VirtualPi, user: str, commands: Sequence[Sequence[str]]) -> list[bool]:
    """Whether the server would let the user run each of the commands with some keys or others."""
    verdicts = [_VERDICT.search(reply) for reply in _dry_runs(pi, user, commands)]
    assert all(verdicts), "the server answered something else"
    return [verdict is not None and verdict[1] != "run" for verdict in verdicts]


def _dry_runs(pi: VirtualPi, user: str, commands: Sequence[Sequence[str]]) -> list[str]:
    return ask(pi, [("acl", "dryrun", user, *command) for command in commands])


def all_commands(pi: VirtualPi) -> list[Command]:
    """Every command of the server; of a container, its subcommands."""
    (names,) = ask(pi, [["command", "list"]])
    containers = {name.partition("|")[0] for name in names if "|" in name}
    (described,) = ask(pi, [["command", "info", *sorted(set(names) - containers)]])
    return [_command(*about[:4]) for about in described]


def _command(name: str, arity: int, flags: list[str], first_key: int) -> Command:
    words = name.split("|")
    filled = [*words, *["1"] * (abs(arity) - len(words))]
    return Command(name, filled, bool(first_key) or "movablekeys" in flags)
