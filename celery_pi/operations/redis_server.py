"""What the running Redis goes by, where it can be changed without a restart: settings and users."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from pyinfra import host, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.operations.config_files import ConfigFile
from celery_pi.plan import details, will
from celery_pi.shell import assign, is_announced, restart_is_announced, script

UNIT = "redis-server.service"
RECORD = "/var/lib/celery-pi/started/redis-acl"

CLI = script("redis_cli")
SHOW = script("redis_server")
APPLY_USERS = script("redis_apply_users")
APPLY_SETTINGS = script("redis_apply_settings")

# It answers to nobody we know: what it started from, or what was done to it, is not ours.
RESTART = 'systemctl restart "$unit"'

ANSWERS = r"""
[ "$(as_admin acl whoami)" = admin ] || { echo "$unit does not take our password" >&2; exit 1; }
"""

WORK = """
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"""

RECORD_USERS = r"""
mkdir -p -m 0700 "${record%/*}"
users >"$record.new"
mv -f "$record.new" "$record"
"""


@dataclass(frozen=True)
class Server:
    """A running Redis: does it know our users as declared, and what are its settings."""

    answers: bool = False
    users: bool = False
    settings: Mapping[str, str] | None = None


class RedisServer(FactBase[Server]):
    """State of the running server, read in one command."""

    default = Server

    def command(self, acl: str, names: str) -> StringCommand:
        values = assign(unit=UNIT, acl=acl, record=RECORD, names=names)
        return StringCommand(values, CLI, SHOW)

    def process(self, output: list[str]) -> Server:
        if "answers" not in output:
            return Server()
        lines = output[1:]
        users = lines[:1] == ["users"]
        pairs = lines[1:] if users else lines
        # An error in their place, where admin lost a right by hand, is no setting that we want.
        return Server(True, users, dict(zip(pairs[::2], pairs[1::2], strict=False)))


@operation()
def redis_server(settings: ConfigFile, acl: ConfigFile) -> Generator[StringCommand]:
    """The running server goes by both files, and was not restarted for it.

    Each setting is read back after it was set. Users that the file does not name are removed,
    and a user's open connections stay open when his password changes. Nothing is done where this
    run starts the server again, which then reads the files.
    """
    declared = directives(settings.content)
    server = host.get_fact(RedisServer, acl=acl.path, names=" ".join(declared))
    if restart_is_announced(host, UNIT):
        host.noop("the server will be started with them")
        return
    if not server.answers:
        will(host, "restart", UNIT, "it does not take our password")
        if state.config.DIFF:
            details(host, f"Will restart {UNIT}: it does not take our password")
        yield _script(acl.path, RESTART, ANSWERS, RECORD_USERS)
        return
    now = server.settings or {}
    changed = {name: value for name, value in declared.items() if now.get(name) != value}
    users = not server.users or is_announced(host, acl.path)
    if not changed and not users:
        host.noop("the running server goes by both files")
        return
    changes = [*changed, *(["the users"] if users else [])]
    will(host, "change", "the running Redis", f"{', '.join(changes)}, without a restart")
    if state.config.DIFF:
        for name, value in changed.items():
            details(host, f"Will set {name} {value} without a restart")
        if users:
            details(host, "Will set the users without a restart")
    pairs = [QuoteString(word) for pair in changed.items() for word in pair]
    steps = [WORK]
    steps += [APPLY_USERS, RECORD_USERS] if users else []
    steps += [APPLY_SETTINGS] if changed else []
    yield _script(acl.path, StringCommand("set --", *pairs, "\n"), *steps)


def ready(acl: ConfigFile) -> str:
    """Shell command that succeeds when the server has started and takes our password.

    It notes which users the server knows, so that a change by hand is seen.
    """
    return f"unit={UNIT} acl={acl.path} record={RECORD}; {CLI} {ANSWERS} {RECORD_USERS}"


def directives(text: str) -> dict[str, str]:
    """Name and value of each directive of a redis.conf."""
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2 and not line[0].startswith("#")}


def _script(acl: str, *steps: str | StringCommand) -> StringCommand:
    return StringCommand(assign(unit=UNIT, acl=acl, record=RECORD), "set -e\n", CLI, *steps)
