"""Managed by celery-pi. What is in data of Redis, told by a throw-away server that loads them.

Redis' programs read them as user redis, because who wrote them may be the app. The digest is Redis'
own (DEBUG DIGEST): of names, values, and whether they expire, in whatever order and on whatever
version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from celery_pi_privileges import attempt, run

from celery_pi_backup import Trouble
from celery_pi_backup.hands import lent, patience, room, script
from celery_pi_backup.shape import check_held

USER = "redis"
LOADED = Path(__file__).with_name("loaded.py")
PATIENCE = 960  # seconds to load all and to tell; the script has time-outs of its own


def look(rdb: Path) -> dict[str, Any]:
    """What an RDB file, `dump.rdb` in a workspace, holds: `databases` and `digest`."""
    with lent(rdb, USER) as name:
        command = ("redis-check-rdb", str(name))
        if attempt(USER, command, timeout=patience(rdb.stat().st_size)).status:
            raise Trouble(f"{rdb.name} is damaged: redis-check-rdb refuses it")
        return look_in(name.parent, "no")


def look_in(data: Path, append_only: str) -> dict[str, Any]:
    """The same of a directory of data, by the append-only file (`yes`) or the snapshot (`no`)."""
    with room(USER) as theirs:
        words = (str(data), append_only, str(theirs))
        told = script(USER, LOADED, *words, timeout=PATIENCE)
    try:
        held: dict[str, Any] = json.loads(told)
        check_held(held)
    except (ValueError, RecursionError) as error:
        raise Trouble("Redis does not tell what the data hold") from error
    return held


def version() -> str:
    """Of the installed server, such as 8.0.2."""
    said = run(USER, ("redis-server", "--version")).decode(errors="replace")
    return next(word[2:] for word in said.split() if word.startswith("v="))


def difference(found: dict[str, Any], promised: dict[str, Any]) -> str:
    """In what they differ, or nothing."""
    counted, wanted = _keys(found), _keys(promised)
    if counted != wanted:
        return f"{counted} keys instead of {wanted}"
    if found["databases"] != promised["databases"]:
        return "as many keys, but in other databases, or other ones that expire"
    return "" if found["digest"] == promised["digest"] else "as many keys, but another content"


def _keys(told: dict[str, Any]) -> int:
    return sum(database["keys"] for database in told["databases"].values())
