"""What the running Redis goes by, where it can be changed without a restart: settings and users."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from pyinfra import host, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.operations.config_files import ConfigFile
from celery_pi.plan import details, will
from celery_pi.shell import assign, is_announced, restart_is_announced

UNIT = "redis-server.service"
RECORD = "/var/lib/celery-pi/started/redis-acl"

# While passwords change, the server may know only the old one. Of the users' list only a digest
# is shown, because it holds hashes of passwords; without a default that ACL SETUSER leaves in the
# list and a start of the server does not, and in an order of our own: that of Redis 7.0's rules
# is another after each start.
CLI = r"""
words='{ for (i = 3; i <= NF; i++) if ($i != "sanitize-payload") print $2, $i }'
as_admin() { timeout -k 5 60 /usr/local/lib/celery-pi/redis-cli admin "$@"; }
users() {
  echo "$(as_admin acl list | awk "$words" | sort | sha256sum) $(sha256sum <"$acl")"
}
"""

SHOW = r"""
if [ "$(systemctl is-active "$unit")" = active ] && [ -e "$acl" ] \
  && [ "$(as_admin acl whoami 2>&1)" = admin ]; then
  echo answers
  [ "$(users)" != "$(cat "$record" 2>&1)" ] || echo users
  as_admin config get $names
fi
"""

# A user's rules are replaced as a whole and in one step; ACL LOAD would cut every connection.
APPLY_USERS = r"""
while read -r word name rules; do
  [ "$word" != user ] || printf 'acl setuser %s reset %s\n' "$name" "$rules"
done <"$acl" >"$work/commands"
sed -n 's/^acl setuser \([^ ]*\) .*/\1/p' "$work/commands" | sort >"$work/declared"
as_admin acl users | sort | comm -23 - "$work/declared" | sed 's/^/acl deluser /' >>"$work/commands"
as_admin <"$work/commands" >"$work/replies" 2>&1
if grep -v -e '^OK$' -e '^[01]$' "$work/replies" >&2; then exit 1; fi
"""

APPLY_SETTINGS = r"""
as_admin config set "$@" >"$work/replies" 2>&1
[ "$(cat "$work/replies")" = OK ] || { cat "$work/replies" >&2; exit 1; }
while [ $# -gt 0 ]; do
  now=$(as_admin config get "$1" | tail -n 1)
  [ "$now" = "$2" ] || { echo "Redis keeps $1 at $now and does not take $2" >&2; exit 1; }
  shift 2
done
"""

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
        shown = output[1:]
        users = shown[:1] == ["users"]
        pairs = shown[1:] if users else shown
        # An error in their place, where admin lost a right by hand, is no setting that we want.
        return Server(True, users, dict(zip(pairs[::2], pairs[1::2], strict=False)))


@operation()
def redis_server(settings: ConfigFile, acl: ConfigFile) -> Generator[StringCommand]:
    """The running server goes by both files, and was not restarted for it.

    Each setting is read back after it was set. Users that the file does not name are removed,
    and a user's open connections stay open when his password changes. Nothing is done where this
    run starts the server again, which then reads the files.
    """
    wanted = directives(settings.content)
    server = host.get_fact(RedisServer, acl=acl.path, names=" ".join(wanted))
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
    changed = {name: value for name, value in wanted.items() if now.get(name) != value}
    users = not server.users or is_announced(host, acl.path)
    if not changed and not users:
        host.noop("the running server goes by both files")
        return
    named = [*changed, *(["the users"] if users else [])]
    will(host, "change", "the running Redis", f"{', '.join(named)}, without a restart")
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
