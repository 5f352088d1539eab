"""Managed by celery-pi. Ways from another user to root: what cron and logrotate do as root."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from celery_pi_tools.checks.registry import Finding, check, ok, wrong
from celery_pi_tools.file_access import HANDED_OVER, changed_by, programs
from celery_pi_tools.privileges import foreign_steps
from celery_pi_tools.system import System

CRON = Path("/etc")
OF_ROOT = Path("/var/spool/cron/crontabs/root")
PERIODS = ("cron.hourly", "cron.daily", "cron.weekly", "cron.monthly")
LOGROTATE = Path("/etc/logrotate.d")
WITH_USER = re.compile(r"^\s*(?:@\w+|(?:\S+\s+){4}\S+)\s+(\S+)\s+(.*)$")
WITHOUT = re.compile(r"^\s*(?:@\w+|(?:\S+\s+){4}\S+)\s+(.*)$")
VARIABLE = re.compile(r"^\s*\w+\s*=")
SCRIPTS = {"prerotate", "postrotate", "firstaction", "lastaction", "preremove"}
ITS_LOG = re.compile(r"\$\{?[\d@*]")  # the path of a log, as the script is given it


@check("Escalation", "Cron", "audit")
def cron(_: System) -> Finding:
    files = [*tables(), *(file for place in PERIODS for file in within(CRON / place))]
    run = [path for table in tables() for command in roots(table) for path in programs(command)]
    places = [CRON / name for name in ("cron.d", *PERIODS) if (CRON / name).exists()]
    paths = [*map(str, places), *map(str, files), *run]
    writable = [why for path in dict.fromkeys(paths) if (why := changed_by(path))]
    if writable:
        remedy = "have it run as that user (cron's sixth word; crontab -u), or give it to root"
        return wrong(f"root runs what others write: {'; '.join(writable)}", remedy, files=writable)
    return ok("what root runs is root's", files=[])


def tables() -> list[Path]:
    """The tables that may have commands of root's."""
    return [file for file in (CRON / "crontab", OF_ROOT) if file.exists()] + within(CRON / "cron.d")


def within(place: Path) -> list[Path]:
    return sorted(file for file in place.glob("*") if file.name[0] != "." and file.is_file())


def roots(table: Path) -> Iterator[str]:
    """The commands in a table that root runs."""
    for line in table.read_text(errors="replace").splitlines():
        if line.lstrip().startswith("#") or VARIABLE.match(line):
            continue
        if table == OF_ROOT:
            if match := WITHOUT.match(line):
                yield match[1]
        elif (match := WITH_USER.match(line)) and match[1] == "root":
            yield match[2]


class Block(NamedTuple):
    """A block of logrotate's configuration."""

    directories: set[str]
    su: bool
    script: str


@check("Escalation", "Rotation of logs", "audit")
def rotation(_: System) -> Finding:
    troubles = [
        f"{file.name} ({why})"
        for file in within(LOGROTATE)
        for block in blocks(file.read_text(errors="replace"))
        if (why := trouble(block))
    ]
    if troubles:
        remedy = "su USER GROUP in its block, and each script by runuser -u USER"
        return wrong(
            f"root works where others write: {'; '.join(troubles)}", remedy, files=troubles
        )
    return ok("where others write, as they", files=[])


def trouble(block: Block) -> str:
    """Where root would follow names that others can change, or nothing.

    `su` does not apply to scripts. logrotate itself is safe in another user's directory if nobody
    can replace the directory.
    """
    for directory in sorted(block.directories):
        if not block.su and next(foreign_steps(directory), None):
            return f"{directory} may be replaced by others"
        named = ITS_LOG.search(block.script) or f"{directory}/" in block.script
        others = next(foreign_steps(os.path.join(directory, "x.log")), None)  # noqa: PTH118
        if named and others and not HANDED_OVER.search(block.script):
            return f"its script, as root, in {directory}"
    return ""


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a file. A script may hold braces, so a block ends with a line of its own."""
    paths: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        words = line.split("#")[0].replace("{", " { ").split()
        paths += [word.strip('"') for word in words if word.startswith(("/", '"/'))]
        if "{" in words:
            yield block(paths, lines)
            paths = []


def block(paths: list[str], lines: Iterator[str]) -> Block:
    su, script, inside = False, [], False
    for line in lines:
        word = (line.split() or [""])[0]
        if inside:
            inside = word != "endscript"
            script += [line] if inside else []
        elif word == "}":
            break
        else:
            inside = word in SCRIPTS
            su = su or word == "su"
    return Block({os.path.dirname(path) for path in paths}, su, "\n".join(script))  # noqa: PTH120
