"""Managed by celery-pi. Ways from another user to root: what systemd runs as root, with whose
environment and from whose directories, and what the app's own variables would load."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.commands import CannotRead
from celery_pi_tools.env_file import values
from celery_pi_tools.file_access import changed_by, programs
from celery_pi_tools.privileges import read
from celery_pi_tools.system import System

BETWEEN = re.compile(r"\n\n(?=[A-Z]\w*=)")
BEGUN = re.compile(r"^Exec\w+Ex=.", re.MULTILINE)
PARSED = re.compile(
    r"^(Exec\w+Ex)=\{ path=.*? ; argv\[\]=(.*?) ; flags=(.*?) ; start_time=",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"^EnvironmentFiles=(.+?)(?: \(ignore_errors=\w+\))?$", re.MULTILINE)
AS_ROOT = {"privileged", "no-setuid"}  # as systemd.service(5) has them: + and !
ROOT = ("", "root", "0")
# What makes a program of any kind load or run something else. None of it belongs into a file that
# the app itself may write: a drop-in of the unit's is root's.
LOADERS = (
    *("LD_*", "PATH", "IFS", "BASH_ENV", "GCONV_PATH", "LOCPATH", "NLSPATH", "GLIBC_TUNABLES"),
    *("PYTHON*", "PERL5*", "PERLLIB", "RUBYOPT", "RUBYLIB", "NODE_OPTIONS", "NODE_PATH"),
    *("OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "GIT_*"),
)
# An owner's legitimate wish: his modules, less memory (MALLOC_ARENA_MAX), his word for production.
WISHES = ("PYTHONPATH", "MALLOC_*", "ENV")
# They load nothing.
HARMLESS = {
    *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONIOENCODING"),
    *("PYTHONUTF8", "PYTHONOPTIMIZE", "PYTHONFAULTHANDLER", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG"),
    *("PYTHONMALLOC", "PYTHONTRACEMALLOC", "PYTHONNOUSERSITE", "PYTHONSAFEPATH"),
}
DROP_IN = "take it out; where it is needed: systemctl edit celery-worker, Environment="


class Unit(NamedTuple):
    """A service, and the commands of it that root runs."""

    name: str
    user: str
    environment: list[str]
    directory: str
    capabilities: str
    commands: list[str]


def units(system: System) -> Iterator[Unit]:
    """Every service that systemd has loaded."""
    for block in BETWEEN.split(system.services.strip()):
        properties = dict(re.findall(r"^([A-Z]\w*)=(.*)$", block, re.MULTILINE))
        user = "another" if properties.get("DynamicUser") == "yes" else properties.get("User", "")
        yield Unit(
            properties["Id"],
            user,
            FILE.findall(block),
            properties.get("WorkingDirectory", "").lstrip("!-"),
            properties.get("AmbientCapabilities", ""),
            as_root(block, user, properties.get("PermissionsStartOnly") == "yes"),
        )


def as_root(block: str, user: str, start_only: bool) -> list[str]:
    """The commands of a unit that root runs; one may have several lines. Raises CannotRead."""
    parsed = PARSED.findall(block)
    if len(parsed) < len(BEGUN.findall(block)):
        raise CannotRead("systemd lists its commands in another form", "mend escalation.py")
    return [
        words
        for kind, words, flags in parsed
        if user in ROOT or AS_ROOT & set(flags.split()) or (start_only and kind != "ExecStartEx")
    ]


@check("Escalation", "Environment of root's commands", "audit")
def environments(system: System) -> Finding:
    writable = [
        f"{unit.name} ({why})"
        for unit in units(system)
        if unit.commands
        for path in unit.environment
        if (why := changed_by(path))
    ]
    if writable:
        remedy = "run it as another user (User=, no + or !), or give the file to root in its place"
        return wrong(f"others write it: {'; '.join(writable)}", remedy, units=writable)
    return ok("root's own alone", units=[])


@check("Escalation", "Programs of root's units", "audit")
def commands(system: System) -> Finding:
    writable = [
        f"{unit.name} ({why})"
        for unit in units(system)
        for path in used(unit)
        if (why := changed_by(path))
    ]
    if writable:
        remedy = "systemctl edit it: User=; or have the program lie where only root may write"
        return wrong(f"others write it: {'; '.join(writable)}", remedy, units=writable)
    return ok("lie where only root may write", units=[])


def used(unit: Unit) -> list[str]:
    """The programs that root runs, and their working directory, from which Python imports."""
    named = {path for command in unit.commands for path in programs(command)}
    place = [unit.directory] if unit.user in ROOT and unit.directory.startswith("/") else []
    return [*sorted(named), *place]


@check("Escalation", "Variables that load code", "audit")
def loaders(system: System) -> Finding | None:
    path = f"{system.settings['app_dir']}/.env"
    try:
        text = read(system.settings["app_user"], path)
    except FileNotFoundError:
        return None
    names = set(values(text)) - HARMLESS
    wishes = sorted(name for name in names if matches(name, WISHES))
    bad = sorted(name for name in names - set(wishes) if matches(name, LOADERS))
    if bad:
        return wrong(f"{path} sets {', '.join(bad)}", DROP_IN, names=bad)
    if wishes:
        return warn(f"{path} sets {', '.join(wishes)}", DROP_IN, names=wishes)
    return ok("none in the app's .env", names=[])


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
