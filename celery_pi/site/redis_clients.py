"""Who uses Redis before our first deploy: as whom they do stays open while anybody uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyinfra.api import FactBase, StringCommand

from celery_pi.privileges import READ_AS
from celery_pi.settings import Settings
from celery_pi.shell import assign

ACL = "/etc/celery-pi/redis.acl"
CONF = "/etc/redis/redis.conf"

# The password is in the environment of redis-cli, which only root can look into; its own file is
# read as Redis, since that user can put something else in its place.
SHOW = (
    READ_AS
    + r"""
[ ! -e "$acl" ] && command -v redis-cli >/dev/null || exit 0
systemctl is-active --quiet redis-server || exit 0
conf=$(read_as redis "$conf" | timeout -s KILL 10 cat)  # which he may keep from ending
said() { printf '%s\n' "$conf" | sed -n "s/^$1[[:space:]]*//p" | tail -n 1 | tr -d "\"'"; }
port=$(said port)
[ "$port" != 0 ] || exit 0
password=$(said requirepass)
ask() { timeout 5 redis-cli -p "${port:-6379}" --no-auth-warning "$@" 2>/dev/null; }
[ -z "$password" ] || export REDISCLI_AUTH="$password"
[ "$(ask ping)" = PONG ] || { echo closed; exit 0; }
ask info keyspace | tr -d '\r' | sed -n 's/^db\([0-9]*\):keys=\([0-9]*\).*/keys \1 \2/p'
ask client list | grep -v 'cmd=client' | sed 's/^/client /'
unset REDISCLI_AUTH password
ss -Htnp "dport = :${port:-6379}" |
  sed -n 's/^[^ ]* *[0-9]* *[0-9]* *\([^ ]*\) .*(("\([^"]*\)",pid=\([0-9]*\).*/\1 \3 \2/p' |
  while read -r from pid name; do
    unit=$(sed -n 's|^0::.*/||p' "/proc/$pid/cgroup" 2>/dev/null)
    user=$(stat -c %U "/proc/$pid" 2>/dev/null)
    ! timeout -s KILL 5 head -c 1048576 -- "/proc/$pid/cmdline" 2>/dev/null |
      tr '\0' ' ' | grep -qF -e "$app" || app_is=yes
    case $(readlink "/proc/$pid/cwd") in "$app"*) app_is=yes ;; esac
    echo "from $from ${app_is:-no} ${user:--} ${unit:--} $name"
    app_is=
  done
true
"""
)


class Client(NamedTuple):
    """A connection: to which database, by whom as far as that is known, and whether the app's."""

    database: int
    who: str
    is_apps: bool
    unit: str = ""


@dataclass(frozen=True)
class Users:
    """How many keys each database has, and who is connected; `closed` where nobody can say."""

    keys: dict[int, int]
    clients: tuple[Client, ...] = ()
    closed: bool = False


class RedisUsers(FactBase[Users]):
    """All of it, read in one command; nothing once our own users are there."""

    def command(self, app: str) -> StringCommand:
        return StringCommand(assign(acl=ACL, conf=CONF, app=app), SHOW)

    def process(self, output: list[str]) -> Users:
        lines = [line.partition(" ") for line in output]
        keys = [rest.split() for word, _, rest in lines if word == "keys"]
        known = dict(_known(rest) for word, _, rest in lines if word == "from")
        clients = [
            dict(part.split("=", 1) for part in rest.split() if "=" in part)
            for word, _, rest in lines
            if word == "client"
        ]
        return Users(
            keys={int(number): int(count) for number, count in keys},
            clients=tuple(_client(client, known) for client in clients),
            closed="closed" in output,
        )

    @staticmethod
    def default() -> Users:
        return Users(keys={})


def _known(line: str) -> tuple[str, dict[str, Any]]:
    address, is_apps, user, unit, name = line.split(maxsplit=4)
    who = f"{name} of {user}" + (f" ({unit})" if unit.endswith(".service") else "")
    return address, {"who": who, "is_apps": is_apps == "yes", "unit": unit}


def _client(client: dict[str, str], known: dict[str, dict[str, Any]]) -> Client:
    address = client.get("addr", "")
    library = client.get("lib-name") or client.get("name")
    named = {"who": f"{address}{f' ({library})' if library else ''}", "is_apps": False}
    return Client(int(client.get("db", "0")), **(known.get(address) or named))


def users_told(users: Users, settings: Settings, site: Collection[str] = ()) -> Iterator[str]:
    """A line for each other database, and one for whoever else uses the app's; not for the `site`,
    whose units start again with the new URL."""
    if users.closed:
        yield (
            f"Redis does not take the password that {CONF} has, so who uses it beside this app is "
            "not known, nor kept: whoever does is shut out"
        )
    ours = settings.redis_database
    others = {client.database for client in users.clients} | users.keys.keys()
    for number in sorted(others - {ours}):
        who = _names(client.who for client in users.clients if client.database == number)
        used = f"used by {who}" if who else "used by nobody at this moment"
        yield (
            f"database {number} of Redis ({users.keys.get(number, 0)} keys, {used}) is out of "
            f"reach by the app's new URL, which may use database {ours} alone, and by the old once "
            "nobody uses that: move a cache there, with the names of its keys in redis_app_keys "
            '(such as ":1:*"), or give it a Redis of its own'
        )
    strangers = _names(
        client.who
        for client in users.clients
        if client.database == ours and not client.is_apps and client.unit not in site
    )
    if strangers:
        yield (
            f"{strangers} is connected to Redis and does not run from {settings.app_dir}: the old "
            "password stays valid while it uses that; name its unit in app_units if it is the "
            "site's, or give it a Redis of its own"
        )


def _names(found: Iterator[str]) -> str:
    return ", ".join(sorted(set(found)))
