"""Who uses Redis before our first deploy: as whom they do stays open while anybody uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyinfra.api import FactBase, StringCommand

from celery_pi.privileges import READ_AS
from celery_pi.settings import Settings
from celery_pi.shell import assign, script

ACL = "/etc/celery-pi/redis.acl"
CONF = "/etc/redis/redis.conf"

SHOW = READ_AS + script("is_of_app", "redis_clients")


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
        processes = dict(_process(rest) for word, _, rest in lines if word == "from")
        clients = [
            dict(part.split("=", 1) for part in rest.split() if "=" in part)
            for word, _, rest in lines
            if word == "client"
        ]
        return Users(
            keys={int(number): int(count) for number, count in keys},
            clients=tuple(_client(client, processes) for client in clients),
            closed="closed" in output,
        )

    @staticmethod
    def default() -> Users:
        return Users(keys={})


def _process(line: str) -> tuple[str, dict[str, Any]]:
    address, is_apps, user, unit, name = line.split(maxsplit=4)
    who = f"{name} of {user}" + (f" ({unit})" if unit.endswith(".service") else "")
    return address, {"who": who, "is_apps": is_apps == "yes", "unit": unit}


def _client(client: dict[str, str], processes: dict[str, dict[str, Any]]) -> Client:
    address = client.get("addr", "")
    library = client.get("lib-name") or client.get("name")
    unknown = {"who": f"{address}{f' ({library})' if library else ''}", "is_apps": False}
    return Client(int(client.get("db", "0")), **(processes.get(address) or unknown))


def users_warnings(users: Users, settings: Settings, site: Collection[str] = ()) -> Iterator[str]:
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


def _names(names: Iterator[str]) -> str:
    return ", ".join(sorted(set(names)))
