"""Finds every job of root's: on the machine by what is installed there, and in the source."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from celery_pi.render import ROOT
from tests.virtual_pi import VirtualPi

LIBRARY = "/usr/local/lib/celery-pi"
OURS = "Managed by celery-pi"
# A program of the library can be run, or is a module with a main part.
RUN = "find . -type f ! -name '*.pyc' '(' -perm /111 -o -exec grep -q __main__ {} ';' ')' -print"
# systemd's directories of units; how a unit's file or its drop-in is named.
UNITS = re.compile(
    r"/etc/systemd/system/([^/]+\.(?:service|timer|path|socket|mount))(?:\.d/.*\.conf)?"
)
KINDS = {
    "/etc/logrotate.d": "logrotate.d",
    "/etc/tmpfiles.d": "tmpfiles.d",
    "/etc/needrestart/restart.d": "restart.d",
}


def on_machine(pi: VirtualPi) -> set[str]:
    """What the machine has."""
    listed = pi.run("grep", "-rlI", OURS, "/etc").stdout.splitlines()
    names = {name for path in listed for name in _named(path)}
    names = {each for name in names for each in _started(pi, name)}
    programs = pi.run("sh", "-c", f"cd {LIBRARY} && {RUN}").stdout.split()
    names |= {f"program {path.removeprefix('./').removeprefix('tools/')}" for path in programs}
    return names | {f"command {name}" for name in commands(pi)}


def commands(pi: VirtualPi) -> list[str]:
    """Of `celery-pi`, by its own help, where old names stand in brackets."""
    found = re.findall(r"^ {4}([a-z][a-z-]*)", pi.run("celery-pi", "--help").stdout, re.MULTILINE)
    assert found
    return found


def in_source() -> set[str]:
    """What a machine with other settings, or of another kind, has."""
    names = set()
    for top in ("files", "templates"):
        for path in sorted((ROOT / top / "etc").rglob("*")):
            if path.is_file() and OURS in path.read_text():
                target = f"/{path.relative_to(ROOT / top)}".removesuffix(".j2")
                names |= {name for name in _named(target) if not _is_trigger(name)}
    for library in (ROOT / f"files{LIBRARY}", ROOT / "packages/celery-pi-tools/src"):
        for path in library.rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and _is_program(path.read_bytes()):
                names.add(f"program {path.relative_to(library)}")
    return names


def _is_program(content: bytes) -> bool:
    return content.startswith(b"#!") or b"__main__" in content


def _named(path: str) -> list[str]:
    unit = UNITS.fullmatch(path)
    if unit:
        return [f"unit {unit[1]}"]
    place = PurePosixPath(path)
    kind = KINDS.get(str(place.parent))
    return [f"{kind} {place.name}" if kind else f"file {path}"]


def _is_trigger(name: str) -> bool:
    return name.startswith("unit ") and not name.endswith(".service")


def _started(pi: VirtualPi, name: str) -> list[str]:
    """What a timer or the like starts; a service is itself."""
    if not _is_trigger(name):
        return [name]
    started = pi.run("systemctl", "show", "-P", "Triggers", name.removeprefix("unit "))
    return [f"unit {unit}" for unit in started.stdout.split()]
