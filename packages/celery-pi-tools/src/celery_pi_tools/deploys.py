"""Managed by celery-pi. The command `celery-pi deploys`: the recorded deploys, the newest last."""

from __future__ import annotations

import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from celery_pi_tools.config import STATE
from celery_pi_tools.text import printable

RECORDS = STATE / "deploys"
LOCK = Path("/run/celery-pi")
UPTIME = Path("/proc/uptime")
TIME = "%Y-%m-%d %H:%M:%S UTC"
LONGEST = 3600  # seconds within which a deploy that was cut off is taken to have been under way
LEASE = 20  # seconds after which a lock that is not renewed is void


def main(as_json: bool) -> int:
    recorded = records()
    if as_json:
        print(json.dumps(recorded, indent=2))
        return 0
    for record in recorded:
        print("\n".join(map(printable, lines(record))))
    return 0


def records() -> list[dict[str, Any]]:
    """Every record, the oldest first."""
    result = [
        {"number": int(path.stem), **json.loads(path.read_text())}
        for path in sorted(RECORDS.glob("*.json"))
    ]
    for record in result:
        if record["result"] == "running" and not is_running(record):
            record["result"] = "cut off"
    return result


def at(moment: float) -> dict[str, Any] | None:
    """The deploy during which that Unix time was.

    Its record has the clock of the machine that deployed. By this machine's, the record was written
    when the deploy began and when it ended. One that was cut off was over when the next one began.
    """
    next_began = math.inf
    for record in reversed(records()):
        written = (RECORDS / f"{record['number']:06}.json").stat().st_mtime
        last = written if record["ended"] else min(cut_off_by(written), next_began)
        began = written - duration(record)
        if began - 1 <= moment <= last + 1:
            return dict(record)
        next_began = began
    return None


def cut_off_by(begun: float) -> float:
    """Unix time until which a deploy may have gone on that was cut off."""
    booted = time.time() - uptime()
    return booted if begun < booted else begun + LONGEST


def uptime() -> float:
    """Seconds since the machine was started."""
    return float(UPTIME.read_text().split()[0])


def duration(record: dict[str, Any]) -> float:
    """Seconds between its beginning and its end; 0 where it has not ended."""
    if not record["ended"]:
        return 0
    started, ended = (datetime.strptime(record[key], TIME) for key in ("started", "ended"))
    return (ended - started).total_seconds()


def is_running(record: dict[str, Any]) -> bool:
    """Whether the recorded run holds the lock and is alive."""
    try:
        holder = json.loads((LOCK / "holder").read_text())
        last_heard = int((LOCK / "beat").read_text().split()[1])
    except FileNotFoundError:
        return False
    alive = 0 <= uptime() - last_heard < LEASE
    return alive and (holder["who"], holder["since"]) == (record["who"], record["started"])


def lines(record: dict[str, Any]) -> list[str]:
    """A record for people."""
    what, source = ", ".join(record["what"]), record["commit"][:12] or "no commit"
    if record["commit"].endswith("-dirty"):
        source += "-dirty"
    result = [
        f"{record['number']:>4}  {record['started']}  {record['who']}  {what} of {source}: "
        f"{record['result']}"
    ]
    for title, items in (
        ("settings", [f"{name}={value}" for name, value in record["settings"].items()]),
        ("changed", record["changed"]),
        *record.get("planned", {}).items(),  # older records have none
    ):
        result += [f"      {title}: {', '.join(map(str, items))}"] if items else []
    return result
