#!/usr/bin/python3
"""Managed by celery-pi. The deploys that changed something: who, when, from what, with what result.

    celery-pi deploys           list them, the newest last
    celery-pi deploys --json    the same for programs, with all that is known

Exit status: 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from celery_pi_text import printable

RECORDS = Path("/var/lib/celery-pi/deploys")
LOCK = Path("/run/celery-pi")
UPTIME = Path("/proc/uptime")
LEASE = 20  # seconds that a holder of the lock may be silent


def main(arguments: list[str]) -> int:
    found = records()
    if arguments == ["--json"]:
        print(json.dumps(found, indent=2))
        return 0
    for record in found:
        print("\n".join(map(printable, lines(record))))
    return 0


def records() -> list[dict[str, Any]]:
    """Every record that is kept, the oldest first."""
    found = [
        {"number": int(path.stem), **json.loads(path.read_text())}
        for path in sorted(RECORDS.glob("*.json"))
    ]
    for record in found:
        if record["result"] == "running" and not is_running(record):
            record["result"] = "cut off"
    return found


def is_running(record: dict[str, Any]) -> bool:
    """Whether the run that the record is of holds the lock, and lives."""
    try:
        holder = json.loads((LOCK / "holder").read_text())
        last_heard = int((LOCK / "beat").read_text().split()[1])
    except FileNotFoundError:
        return False
    alive = 0 <= float(UPTIME.read_text().split()[0]) - last_heard < LEASE
    return alive and (holder["who"], holder["since"]) == (record["who"], record["started"])


def lines(record: dict[str, Any]) -> list[str]:
    """What a person wants to know of it."""
    what, source = ", ".join(record["what"]), record["commit"][:12] or "no commit"
    if record["commit"].endswith("-dirty"):
        source += "-dirty"
    told = [
        f"{record['number']:>4}  {record['started']}  {record['who']}  {what} of {source}: "
        f"{record['result']}"
    ]
    for title, items in (
        ("settings", [f"{name}={value}" for name, value in record["settings"].items()]),
        ("changed", record["changed"]),
        *record.get("planned", {}).items(),  # older records have none
    ):
        told += [f"      {title}: {', '.join(map(str, items))}"] if items else []
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
