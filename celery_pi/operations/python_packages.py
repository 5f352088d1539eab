"""The app's virtual environment and the pinned packages in it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.remote import announce_write, assign, is_announced

# Names and versions come from the folders that pip itself goes by: no Python has to start,
# which takes seconds on a Pi, and nothing of the app's user runs as root.
# Only the packages of the Python that the environment has now count: after an upgrade of Debian
# it has a newer one, which sees none of the old.
PACKAGES = r"""
python=$(readlink -f "$venv/bin/python" || true)  # without an environment there is none
packages=$venv/lib/${python##*/}/site-packages
ready() { [ -x "$python" ] && ls "$packages"/pip-*/RECORD >/dev/null 2>&1; }
"""

# Held by a pip that works beside other operations, which is waited for.
LOCK = "/run/celery-pi/pip.lock"

SHOW = r"""
[ ! -e "$lock" ] || flock "$lock" true
# Without ensurepip, which is Debian's python3-venv, none can be made: an answer, and no error.
ready && echo "ready" || { python3 -c "import ensurepip" 2>/dev/null && echo "able"; }
[ ! -e "$record" ] || echo "record $(cat "$record")"
[ ! -e "$requirements" ] || echo "requirements $(sha256sum <"$requirements" | cut -c1-64)"
for info in "$packages"/*.dist-info; do [ ! -d "$info" ] || echo "installed ${info##*/}"; done
"""

# pip runs as the owner of the environment, and the record is written as him: what lies there is
# his, and a link of his must not lead root anywhere.
INSTALL = r"""
set -e
[ -e "$venv" ] && owner=$(stat -c %U "$venv") || owner=$(stat -c %U "${venv%/*}")
as_owner() { runuser -u "$owner" -- env -C "${venv%/*}" "$@"; }
ready || as_owner python3 -m venv "$venv" >&2
as_owner "$venv/bin/python" -m pip install --no-input --no-cache-dir \
  --disable-pip-version-check --progress-bar off --quiet "$@" >&2
as_owner sh -c 'printf "%s\n" "$1" >"$2.new" && mv -fT "$2.new" "$2"' record "$wanted" "$record"
"""

# What goes wrong is told when it is done again, and waited for.
BESIDE = rf"""
umask 077; mkdir -p "${{lock%/*}}"
exec 9>"$lock"
flock 9
umask 022
(
  trap '' HUP
  {INSTALL}
) </dev/null >/dev/null 2>&1 &
"""


class Package(NamedTuple):
    """Name and version, each in the form that makes equal ones equal."""

    name: str
    version: Version | None


@dataclass(frozen=True)
class Environment:
    """A virtual environment: is it usable, or else can one be made; what was last installed, and
    what is in it now."""

    ready: bool
    record: str
    requirements: str
    installed: frozenset[Package]
    able: bool = False


class PythonEnvironment(FactBase[Environment]):
    """State of a virtual environment, read in one command."""

    def command(self, venv: str, requirements: str) -> StringCommand:
        values = assign(venv=venv, requirements=requirements, record=record(venv), lock=LOCK)
        return StringCommand(values, PACKAGES, SHOW)

    def process(self, output: list[str]) -> Environment:
        words: dict[str, list[str]] = {}
        for line in output:
            word, _, rest = line.partition(" ")
            words.setdefault(word, []).append(rest)
        return Environment(
            ready="ready" in words,
            record="".join(words.get("record", [])),
            requirements="".join(words.get("requirements", [])),
            installed=frozenset(map(_installed, words.get("installed", []))),
            able="able" in words,
        )

    @staticmethod
    def default() -> Environment:
        return Environment(ready=False, record="", requirements="", installed=frozenset())


@operation()
def python_packages(venv: str, pins: Sequence[str], requirements: str) -> Generator[StringCommand]:
    """The environment exists and holds the file's requirements and exactly the pinned packages.

    `pins` have the form `name==version` or `name[extra]==version`; `requirements` is a path, and
    need not exist. Both go to pip in one call, so that it refuses what contradicts itself.
    """
    now = host.get_fact(PythonEnvironment, venv=venv, requirements=requirements)
    wanted = _wanted(pins, now)
    missing = {_pinned(pin) for pin in pins} - now.installed
    # Once it is, the disk tells what became of it.
    has_begun = is_announced(host, record(venv))
    if has_begun or (now.ready and now.record == wanted and not missing):
        host.noop("all pinned packages are installed")
        return
    announce_write(host, record(venv))
    yield StringCommand(_told(venv, pins, requirements, now), PACKAGES, INSTALL)


@operation()
def python_packages_begun(
    venv: str, pins: Sequence[str], requirements: str
) -> Generator[StringCommand]:
    """Where there is no environment, pip begins with one, beside the operations that come next.

    `python_packages` waits for it, and does what it has not done. Where a Debian package is needed
    first, nothing begins.
    """
    now = host.get_fact(PythonEnvironment, venv=venv, requirements=requirements)
    if now.ready or not now.able:
        host.noop("there is an environment" if now.ready else "none can be made yet")
        return
    announce_write(host, record(venv))
    yield StringCommand(_told(venv, pins, requirements, now), PACKAGES, BESIDE)


def _wanted(pins: Sequence[str], now: Environment) -> str:
    return sha256("\n".join([*pins, now.requirements]).encode()).hexdigest()


def _told(venv: str, pins: Sequence[str], requirements: str, now: Environment) -> StringCommand:
    """What the scripts work with; the positional arguments are pip's."""
    arguments = [*pins, *(["-r", requirements] if now.requirements else [])]
    values = assign(venv=venv, record=record(venv), wanted=_wanted(pins, now), lock=LOCK)
    return StringCommand(values, "set --", *(QuoteString(word) for word in arguments), "\n")


def record(venv: str) -> str:
    """Path of what says what was installed; in the environment, so that it goes with it.

    Written after each installation, so a service that uses the environment watches it.
    """
    return f"{venv}/.celery-pi"


def _pinned(pin: str) -> Package:
    requirement = Requirement(pin)
    (specifier,) = requirement.specifier
    return Package(canonicalize_name(requirement.name), Version(specifier.version))


def _installed(folder: str) -> Package:
    """The package whose folder it is, such as `django_celery_results-2.6.0.dist-info`."""
    name, _, version = folder.removesuffix(".dist-info").partition("-")
    try:
        return Package(canonicalize_name(name), Version(version))
    except InvalidVersion:
        return Package(canonicalize_name(name), None)  # none that a pin can name
