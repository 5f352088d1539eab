"""One deploy at a time: a lock on the Pi with a lease that its holder renews.

A lost connection is not always noticed: sshd may hold one for hours, and `docker exec` for ever. So
the lock is not tied to the connection; the deploy renews the lease every few seconds.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from pyinfra.api import StringCommand

from celery_pi.shell import assign, script

DIRECTORY = "/run/celery-pi"  # in memory: a reboot frees the lock
RECORDS = "/var/lib/celery-pi/deploys"
INTERVAL = 5  # seconds between two renewals
LONGEST = 200  # characters of a holder's name, time and purpose in a message
LEASE = 20  # seconds without a renewal after which a holder counts as dead

READ_HOLDER = script("lock_read_holder")

# Name and inode of the newest record. Its inode changes when its run ends.
NEWEST = r"""
for last in "$records"/*.json; do :; done
newest=$(ls -i "$last" 2>/dev/null)
"""

WAIT = script("lock_wait")

TAKE = r"""
[ "$newest" = "$expected" ] || { echo overtaken; exit; }
echo "$sent" >"$directory/holder"
echo "$token $up" >"$directory/beat"
echo taken
"""

RENEW = r"""
flock 9
read_holder
if [ "$holder" = "$token" ]; then echo "$token $up" >"$directory/beat"; else echo lost; fi
"""

GIVE_BACK = r"""
flock 9
read_holder
[ "$holder" != "$token" ] || rm -f "$directory/beat" "$directory/holder"
"""


class Holder(NamedTuple):
    """Who deploys, since when (UTC), and what."""

    who: str
    since: str
    what: str


def take(token: str, newest: str) -> StringCommand:
    """Command that takes the lock for the token; the holder as JSON is its standard input.

    It waits for a dead holder's lease to end, `LEASE` seconds at most. Only then, with the lock in
    hand, does it compare the newest record with `newest`, which `NEWEST` gave when the run was
    planned: whoever held the lock may have changed something meanwhile. Its output is for
    `refusal`.
    """
    return StringCommand(_values(token, newest), READ_HOLDER, WAIT, NEWEST, TAKE)


def renew(token: str) -> StringCommand:
    """Command that renews the lease; it prints `lost` if another deploy has the lock by now."""
    return StringCommand(_values(token), READ_HOLDER, RENEW)


def give_back(token: str) -> StringCommand:
    """Command that frees the lock, if the token still holds it."""
    return StringCommand(_values(token), READ_HOLDER, GIVE_BACK)


def refusal(printed: str, host: str) -> str:
    """Why the lock was not taken, in one sentence; nothing when it was."""
    word, _, rest = printed.partition(" ")
    if word == "held":
        holder = _holder(rest)
        return (
            f"{host} is left as it was: {holder.who} deploys to it since {holder.since} "
            f"({holder.what}); try again when that has ended"
        )
    if word == "overtaken":
        return (
            f"{host} is left as it was: another deploy was made since this one began; run it again"
        )
    return ""


def _holder(text: str) -> Holder:
    """The holder as the Pi names it, which may send anything."""
    try:
        holder = json.loads(text)
        return Holder(*(str(holder[name])[:LONGEST] for name in Holder._fields))
    except (ValueError, LookupError, TypeError, RecursionError):
        return Holder("somebody", "an unknown time", "something")


def _values(token: str, newest: str = "") -> StringCommand:
    return assign(
        directory=DIRECTORY, records=RECORDS, lease=str(LEASE), token=token, expected=newest
    )
