"""Managed by celery-pi. The contents of Redis' data files, read by a throw-away server.

It runs as user redis, because the app may have written them. The digest is Redis' own (DEBUG
DIGEST): of names, values, and whether they expire, independent of their order and Redis' version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from celery_pi_tools.backup.common import BackupError
from celery_pi_tools.backup.manifest_schema import check_contents
from celery_pi_tools.backup.workspace import copy_timeout, lent, room, script
from celery_pi_tools.privileges import attempt, run

USER = "redis"
LOADED = Path(__file__).with_name("scratch_server.py")
TIMEOUT = 960  # seconds to load all and to tell; the script has time-outs of its own


def of_rdb(rdb: Path) -> dict[str, Any]:
    """What an RDB file, `dump.rdb` in a workspace, holds: `databases` and `digest`."""
    with lent(rdb, USER) as name:
        command = ("redis-check-rdb", str(name))
        if attempt(USER, command, timeout=copy_timeout(rdb.stat().st_size)).status:
            raise BackupError(f"{rdb.name} is damaged: redis-check-rdb refuses it")
        return of_directory(name.parent, "no")


def of_directory(data: Path, append_only: str) -> dict[str, Any]:
    """The same of a directory of data, by the append-only file (`yes`) or the snapshot (`no`)."""
    with room(USER) as scratch:
        words = (str(data), append_only, str(scratch))
        output = script(USER, LOADED, *words, timeout=TIMEOUT)
    try:
        contents: dict[str, Any] = json.loads(output)
        check_contents(contents)
    except (ValueError, RecursionError) as error:
        raise BackupError("Redis does not tell what the data hold") from error
    return contents


def version() -> str:
    """Of the installed server, such as 8.0.2."""
    output = run(USER, ("redis-server", "--version")).decode(errors="replace")
    return next(word[2:] for word in output.split() if word.startswith("v="))


def difference(actual: dict[str, Any], expected: dict[str, Any]) -> str:
    """In what they differ, or nothing."""
    actual_keys, expected_keys = _keys(actual), _keys(expected)
    if actual_keys != expected_keys:
        return f"{actual_keys} keys instead of {expected_keys}"
    if actual["databases"] != expected["databases"]:
        return "as many keys, but in other databases, or other ones that expire"
    return "" if actual["digest"] == expected["digest"] else "as many keys, but another content"


def _keys(contents: dict[str, Any]) -> int:
    return sum(database["keys"] for database in contents["databases"].values())
