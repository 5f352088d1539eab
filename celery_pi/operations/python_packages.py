"""The app's virtual environment and the pinned packages in it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pyinfra import host, logger
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.app_packages import Locked, to_install
from celery_pi.before import DIRECTORY
from celery_pi.plan import will
from celery_pi.privileges import privileged
from celery_pi.shell import announce_write, assign, is_announced, script

READ_TIMEOUT = (
    20  # seconds to look at an environment; where that takes longer, something is in the way
)
INSTALL_TIMEOUT = 3600  # seconds for pip, which may have to compile what the owner requires
PREFETCH_TIMEOUT = 600  # seconds of it beside other operations; then it is done again by itself
WAIT_TIMEOUT = PREFETCH_TIMEOUT + 60  # seconds for a pip that works beside other operations
QUIET_WAIT = 10  # seconds of it before the log says which process it waits for

# Held by that pip. The process that has locked it has ended, so its holders are those that have it
# open.
LOCK = "/run/celery-pi/pip.lock"
WAIT = script("pip_wait")
PACKAGES = script("python_environment")
SHOW = script("python_packages")

# Of each call of pip, also of the dry run of preflight.
PIP_WORDS = "--no-input --no-cache-dir --disable-pip-version-check --progress-bar off"

INSTALL = f"words='{PIP_WORDS}'\n" + script("pip_install")

# An error shows when the installation is repeated in the foreground.
PREFETCH = r"""
sent=$(cat)
umask 077; mkdir -p "${lock%/*}"
exec 9>"$lock"
flock -w "$waiting" 9
"""


KEPT = script("python_environment_keep")


class Package(NamedTuple):
    """Name and version, each in the form that makes equal ones equal."""

    name: str
    version: Version | None


@dataclass(frozen=True)
class Environment:
    """A virtual environment: is it usable, or else can one be made; what was last installed, and
    what is in it now. While a pip is at work on it, only its processes are known, as in
    `python3 (123)`."""

    ready: bool
    record: str
    requirements: str
    installed: frozenset[Package]
    able: bool = False
    busy: str = ""


class PythonEnvironment(FactBase[Environment]):
    """State of a virtual environment, read in one command.

    It waits `QUIET_WAIT` seconds for a pip, or `WAIT_TIMEOUT` with `last`, after which it fails.
    Operations use `environment`.
    """

    def command(self, venv: str, requirements: str, *, last: bool = False) -> StringCommand:
        read = _as_owner(venv, requirements, READ_TIMEOUT, SHOW, requirements)
        wait = assign(lock=LOCK, waiting=str(WAIT_TIMEOUT if last else QUIET_WAIT), last="1" * last)
        return StringCommand(wait, WAIT, read, "</dev/null")

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
            busy="".join(words.get("busy", [])),
        )

    @staticmethod
    def default() -> Environment:
        return Environment(ready=False, record="", requirements="", installed=frozenset())


def environment(venv: str, requirements: str) -> Environment:
    """State of a virtual environment, once no pip of a deploy is at work on it any more.

    A line of the log says for which process it waits. Raises PyinfraError after `WAIT_TIMEOUT`
    seconds.
    """
    now = host.get_fact(PythonEnvironment, venv=venv, requirements=requirements)
    if now.busy:
        host.log(f"waits up to {WAIT_TIMEOUT} s for pip: {now.busy} holds {LOCK}", logger.warning)
        now = host.get_fact(PythonEnvironment, venv=venv, requirements=requirements, last=True)
    return now


@operation()
def python_packages(
    venv: str, pins: Sequence[str], requirements: str, locked: Sequence[Locked] = ()
) -> Generator[StringCommand]:
    """The environment exists and holds the file's requirements and exactly the pinned packages.

    `pins` have the form `name==version` or `name[extra]==version`; `requirements` is a path, and
    need not exist. Both go to pip in one call, so that it refuses what contradicts itself. What of
    the `locked` is missing by then has come as one of the wheels whose digests are known.
    All is done as the owner of the environment, or of the directory in which it is to be.
    """
    now = environment(venv, requirements)
    # Once the run executes, the disk decides.
    has_begun = is_announced(host, record(venv))
    if has_begun or is_installed(pins, now):
        host.noop("all pinned packages are installed")
        return
    announce_write(host, record(venv))
    _add_to_plan(venv, pins, now)
    yield _kept(venv, now)
    command = _installation(INSTALL_TIMEOUT, venv, pins, requirements, locked, now)
    yield StringCommand(command, _stdin=_wheels(locked, pins, now))


@operation()
def prefetch_python_packages(
    venv: str, pins: Sequence[str], requirements: str, locked: Sequence[Locked] = ()
) -> Generator[StringCommand]:
    """Where there is no environment, pip begins with one, beside the operations that come next.

    `python_packages` waits for it, and does what it has not done. Where a Debian package is needed
    first, nothing begins.
    """
    now = environment(venv, requirements)
    if now.ready or not now.able:
        host.noop("there is an environment" if now.ready else "none can be made yet")
        return
    announce_write(host, record(venv))
    _add_to_plan(venv, pins, now)
    yield _kept(venv, now)
    command = _installation(PREFETCH_TIMEOUT, venv, pins, requirements, locked, now)
    beside = ("( trap '' HUP; printf '%s\\n' \"$sent\" |", command, ") >/dev/null 2>&1 &")
    yield StringCommand(_lock(), PREFETCH, *beside, _stdin=_wheels(locked, pins, now))


def is_installed(pins: Sequence[str], now: Environment) -> bool:
    """Whether the environment holds all of it, and the requirements are those of then."""
    missing = {_pinned(pin) for pin in pins} - now.installed
    return now.ready and now.record == _digest(pins, now) and not missing


def arguments(pins: Sequence[str], requirements: str, now: Environment) -> list[str]:
    """What pip is to bring together."""
    return [*pins, *(["-r", requirements] if now.requirements else [])]


def names_of(locked: Sequence[Locked]) -> str:
    """Of the packages that come as wheels alone, as pip takes them."""
    return ",".join(package.name for package in locked)


def _add_to_plan(venv: str, pins: Sequence[str], now: Environment) -> None:
    """A new environment, or which pins change what is in the one that is there."""
    if not now.ready:
        will(host, "install", venv, "an environment with the app's packages")
        return
    present = {package.name: package.version for package in now.installed}
    changes = []
    for name, version in (_pinned(pin) for pin in pins):
        if present.get(name) != version:
            before = f"{present[name]} -> " if present.get(name) else ""
            changes.append(f"{name} {before}{version}")
    why = ", ".join(changes) or "what its requirements ask for"
    will(host, "change", venv, f"pip installs {why}", is_owners=True)


def _kept(venv: str, now: Environment) -> StringCommand:
    """Command that notes which packages were there before us, the first time."""
    present = sorted(package for package in now.installed if package.version)
    lines = [venv, *(f"{package.name}=={package.version}" for package in present)]
    values = assign(
        copy=f"{DIRECTORY}/python/{sha256(venv.encode()).hexdigest()[:12]}",
        text="\n".join(lines) if now.ready else "",
        venv=venv,
        before=DIRECTORY,
    )
    return StringCommand(values, KEPT)


def _digest(pins: Sequence[str], now: Environment) -> str:
    return sha256("\n".join([*pins, now.requirements]).encode()).hexdigest()


def _installation(
    seconds: int,
    venv: str,
    pins: Sequence[str],
    requirements: str,
    locked: Sequence[Locked],
    now: Environment,
) -> StringCommand:
    words = arguments(pins, requirements, now)
    digest = _digest(pins, now)
    return _as_owner(venv, requirements, seconds, INSTALL, digest, names_of(locked), *words)


def _wheels(locked: Sequence[Locked], pins: Sequence[str], now: Environment) -> str:
    """What pip is to install by digest, a line each."""
    installed = {package.name: package.version for package in now.installed}
    pinned = {_pinned(pin).name for pin in pins}
    return "".join(f"{package.line}\n" for package in to_install(locked, installed, pinned)) or "\n"


def _as_owner(
    venv: str, requirements: str, seconds: int, script: str, *words: str
) -> StringCommand:
    shell = ("sh", "-c", PACKAGES + script, "sh", venv, record(venv))
    return privileged("own", venv, str(seconds), "--by", requirements, *shell, *words)


def _lock() -> StringCommand:
    return assign(lock=LOCK, waiting=str(WAIT_TIMEOUT))


def record(venv: str) -> str:
    """Path of the record of what was installed; in the environment, so that it goes with it.

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
