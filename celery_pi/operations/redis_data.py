"""Data of a Redis that ran here before we came, and kept snapshots only."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.operations.redis_server import UNIT
from celery_pi.operations.service import RECORDS
from celery_pi.plan import will
from celery_pi.shell import assign

CONFIG = "/etc/redis/redis.conf"
DATA = "/var/lib/redis"

# The password of such a server stands in its configuration, as a word or in quotes. It is read by
# the server's user, whose directory that is, so that he cannot lead root elsewhere. What listens at
# the port he has written there may keep silent, or never end.
CLI = r"""
configured() {
  timeout 10 setpriv --reuid=redis --regid=redis --init-groups --reset-env \
    head -c 1000000 "$config" </dev/null 2>/dev/null |
    timeout -s KILL 15 sed -n "s/^$1[[:space:]]*//p" | tail -n 1
}
theirs() {
  REDISCLI_AUTH=$(configured requirepass | sed 's/^"\(.*\)"[[:space:]]*$/\1/')
  [ -z "$REDISCLI_AUTH" ] || export REDISCLI_AUTH
  port=$(configured port)
  timeout -s KILL "${patience:-10}" redis-cli -p "${port:-6379}" "$@" | head -c 16777216
}
persistence() { theirs info persistence | tr -d '\r'; }
"""

SHOW = r"""
[ -e "$record" ] || [ "$(systemctl is-active "$unit")" != active ] || {
  persistence | grep -qx aof_enabled:0 && theirs info keyspace | grep -q '^db' && echo unsafe
}
true  # nothing to keep is an answer
"""

# Switched on in the running server, the append-only file begins with all that the server holds;
# switched on by a restart, it would begin empty. Where CONFIG has been renamed, a snapshot does,
# which redis-before-start turns into an append-only file.
KEEP = r"""
set -e
where=$(theirs config get dir | grep . | tail -n 1)  # behind an error comes an empty line
case $where in
  "$data" | *ERR* | *NOPERM*) ;;
  *) echo "Redis keeps its data in $where: move it to $data first" >&2; exit 1 ;;
esac
patience=3600  # seconds: it may have much to write
if [ "$(theirs config set appendonly yes)" = OK ]; then
  # While a snapshot is being written, it waits for that one.
  for _ in $(seq 600); do
    shown=$(persistence)
    case $shown in *aof_rewrite_in_progress:0*aof_rewrite_scheduled:0*) break ;; esac
    sleep 0.5
  done
  case $shown in
    *aof_rewrite_in_progress:0*aof_rewrite_scheduled:0*aof_last_bgrewrite_status:ok*) ;;
    *) echo "Redis could not write its append-only file; see its log" >&2; exit 1 ;;
  esac
else
  [ "$(theirs save)" = OK ] || { echo "Redis could not save its data; see its log" >&2; exit 1; }
fi
"""


class UnsafeData(FactBase[bool]):
    """Whether a server that we did not start holds data that our start of it would lose."""

    default = bool

    def command(self) -> StringCommand:
        return StringCommand(_values(), CLI, SHOW)

    def process(self, output: list[str]) -> bool:
        return "unsafe" in output


@operation()
def redis_data_kept() -> Generator[StringCommand]:
    """What a server that we did not start holds will be there when we have started it.

    Fails, with that server left running, when its data cannot be written where ours will look.
    """
    if host.get_fact(UnsafeData):
        will(host, "change", "the running Redis", "writes down what it holds", theirs=True)
        yield StringCommand(_values(), CLI, KEEP)
    else:
        host.noop("there is nothing to keep")


def _values() -> StringCommand:
    return assign(config=CONFIG, data=DATA, record=f"{RECORDS}/{UNIT}", unit=UNIT)
