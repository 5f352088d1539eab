"""Data of a Redis that ran here before we came, and kept snapshots only."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.operations.redis_server import UNIT
from celery_pi.operations.service import RECORDS
from celery_pi.plan import will
from celery_pi.shell import assign, script

CONFIG = "/etc/redis/redis.conf"
DATA = "/var/lib/redis"

CLI = script("redis_before_cli")

SHOW = r"""
[ -e "$record" ] || [ "$(systemctl is-active "$unit")" != active ] || {
  persistence | grep -qx aof_enabled:0 && old_redis info keyspace | grep -q '^db' && echo unsafe
}
true  # nothing to keep is an answer
"""

KEEP = script("migrate_to_aof")


class UnsafeData(FactBase[bool]):
    """Whether a server that we did not start holds data that our start of it would lose."""

    default = bool

    def command(self) -> StringCommand:
        return StringCommand(_values(), CLI, SHOW)

    def process(self, output: list[str]) -> bool:
        return "unsafe" in output


@operation()
def migrate_to_aof() -> Generator[StringCommand]:
    """What a server that we did not start holds will be there when we have started it.

    Fails, with that server left running, when its data cannot be written where ours will look.
    """
    if host.get_fact(UnsafeData):
        will(host, "change", "the running Redis", "writes down what it holds", is_owners=True)
        yield StringCommand(_values(), CLI, KEEP)
    else:
        host.noop("there is nothing to keep")


def _values() -> StringCommand:
    return assign(config=CONFIG, data=DATA, record=f"{RECORDS}/{UNIT}", unit=UNIT)
