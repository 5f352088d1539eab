"""Debian packages, also on a machine that lost its power in the middle of an installation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pyinfra import host, logger, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi import before
from celery_pi.plan import is_planned, will
from celery_pi.shell import assign, read_quietly, script

# Taken with fcntl(2) by apt and dpkg while they work; /proc/locks names the process that holds one.
LOCKS = "/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock"

SHOW = script("debian_packages")

# Seconds to wait for another apt or dpkg. On the first day of a Pi it is unattended-upgrades, which
# gives the lock back after each few packages. `before.INSTALLED_BY_US` knows our calls by it.
WAIT_TIMEOUT = 300

# needrestart, where it is installed, would start services again in the midst of a deploy.
APT = (
    "DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=yes "
    f"apt-get -q -y -o DPkg::Lock::Timeout={WAIT_TIMEOUT}"
)

CONFIGURE = script("dpkg_configure")

# It changes nothing, not even apt's own cache, and needs no root for it.
SIMULATE = (
    "LC_ALL=C apt-get -qq -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= --simulate install"
)
REMOVED = r"2>/dev/null | sed -n 's/^Remv \([^ ]*\).*/\1/p'"

FETCHED = "celery_pi_package_lists"
PLANNED = "celery_pi_planned_packages"
RECORDING = "celery_pi_begins_record_of_packages"

UPDATE = f"update_lists() {{ LC_ALL=C {APT} update; }}\n{script('apt_update')}"
DEAD_SOURCES = r"""
sed -n 's/^[EW]: \(Failed to fetch .*\|.*does not have a Release file\..*\)/\1/p' "$output" |
  sort -u
rm -f "$output"
"""

# Debian's own means to keep packages from starting their services (deb-systemd-invoke(1p)). It says
# no only while the lock is held, so one that is left behind by a power cut keeps nothing down; and
# only to a start, so what runs is restarted when it is upgraded. Somebody else's stays as it is.
POLICY = "/usr/sbin/policy-rc.d"
LOCK = "/run/celery-pi/apt.lock"
UPDATE_OUTPUT = "/run/celery-pi/apt.update"
CONFIGURE_OUTPUT = "/run/celery-pi/dpkg.configure"
MARK = "# Managed by celery-pi, and here while it installs packages."
POLICY_SCRIPT = "#!/bin/sh\n" + MARK + script("policy_rc_d")
HOLD = script("policy_rc_d_hold")


@dataclass(frozen=True)
class Packages:
    """Which of the packages are not installed, whether dpkg was interrupted, whether there is no
    record yet of those that we have installed, and the process that is at work on packages, as in
    `apt-get (123)`."""

    missing: tuple[str, ...] = ()
    interrupted: bool = False
    unrecorded: bool = False
    busy: str = ""


class DebianPackages(FactBase[Packages]):
    """State of the named packages, read in one command."""

    default = Packages

    def command(self, packages: Sequence[str]) -> StringCommand:
        names = " ".join(packages)
        return StringCommand(assign(packages=names, installed=before.INSTALLED, locks=LOCKS), SHOW)

    def process(self, output: list[str]) -> Packages:
        missing = (line.partition(" ")[2] for line in output if line.startswith("missing "))
        busy = (line.partition(" ")[2] for line in output if line.startswith("busy "))
        return Packages(
            tuple(missing), "interrupted" in output, "unrecorded" in output, next(busy, "")
        )


@operation()
def debian_packages(
    packages: Sequence[str], no_start: Sequence[str] = ()
) -> Generator[StringCommand]:
    """The packages are installed; the package lists are fetched when one is missing, once in a run.

    `no_start` are units that their package does not start, since a component does once they are
    configured.

    Those that were not there are noted on the machine before apt is called (`before.INSTALLED`).
    Beyond pyinfra's `apt.packages`, it waits for another apt or dpkg (`WAIT_TIMEOUT` seconds for
    each command), completes what dpkg left unfinished once nobody holds its lock, and does not
    count the age of the package lists as a change.
    """
    now = host.get_fact(DebianPackages, packages=list(packages))
    missing = _not_planned(now.missing)
    unrecorded = now.unrecorded and _is_first()
    _add_to_plan(now, missing)
    if now.interrupted or now.busy:
        yield StringCommand(assign(output=CONFIGURE_OUTPUT, waiting=str(WAIT_TIMEOUT)), CONFIGURE)
        if state.is_executing:  # what the other process has installed meanwhile is not missing
            missing = list(host.get_fact(DebianPackages, packages=list(packages)).missing)
    if missing:
        if not host.connector_data.get(FETCHED):
            yield StringCommand(assign(output=UPDATE_OUTPUT, waiting=str(WAIT_TIMEOUT)), UPDATE)
            host.connector_data[FETCHED] = True  # not before it has been run, and well
            _warn_of_dead_sources()
        names = [QuoteString(name) for name in missing]
        install = StringCommand(APT, "-o Dpkg::Options::=--force-confold install", *names)
        # Without the lock, which a daemon that a package starts would hold on to.
        noted = StringCommand(_noted(missing), "|| exit 1;")
        yield StringCommand(
            noted, *((_not_starting(no_start), install, "9>&-") if no_start else (install,))
        )
    elif unrecorded:
        yield _noted(())
    if not now.interrupted and not now.busy and not missing and not unrecorded:
        host.noop("all packages are installed")


def _noted(packages: Sequence[str]) -> StringCommand:
    """Command that adds those of the packages that are not there to what we have installed."""
    words = assign(installed=before.INSTALLED, history=before.HISTORY, new=" ".join(packages))
    return StringCommand(words, before.INSTALLED_BY_US, before.NOTE_INSTALLED, "note_installed")


def _add_to_plan(now: Packages, missing: Sequence[str]) -> None:
    """Say, while planning, what comes and what has to go for it."""
    if not is_planned(host):
        return
    if now.interrupted:
        will(host, "change", "packages", "completes what dpkg was interrupted in")
    if now.busy:
        will(host, "change", "packages", f"waits for {now.busy}, which is at work on them")
    for name in missing:
        will(host, "install", name)
    for name in _removed_by_apt(missing):
        will(host, "remove", name, "apt takes it away for what is installed", is_owners=True)


def _removed_by_apt(missing: Sequence[str]) -> list[str]:
    """What apt would remove; without package lists it knows of nothing.

    It takes seconds on a Pi. Sent with an input, however empty, it is no question that the next
    deploy would ask too.
    """
    if not missing:
        return []
    names = [QuoteString(name) for name in missing]
    _, output = host.run_shell_command(StringCommand(SIMULATE, *names, REMOVED), _stdin="\n")
    return sorted({line for line in output.stdout_lines if line not in missing})


def _warn_of_dead_sources() -> None:
    if state.is_executing:
        for line in read_quietly(
            host, StringCommand(assign(output=UPDATE_OUTPUT), DEAD_SOURCES)
        ).splitlines():
            host.log(f"apt goes on without a source that is dead: {line}", logger.warning)


def _not_starting(units: Sequence[str]) -> StringCommand:
    text = POLICY_SCRIPT.replace("{lock}", LOCK)
    text = text.replace("{not_starting}", " ".join(unit.removesuffix(".service") for unit in units))
    return StringCommand(assign(policy=POLICY, lock=LOCK, mark=MARK, text=text), HOLD)


def _is_first() -> bool:
    """Whether no operation before this one is going to begin the record."""
    is_first = host.connector_data.setdefault(RECORDING, host.current_op_hash)
    return state.is_executing or is_first == host.current_op_hash


def _not_planned(missing: Sequence[str]) -> list[str]:
    """Those that no operation before this one is going to install; once the run is under way, the
    machine tells."""
    planned: set[str] = host.connector_data.setdefault(PLANNED, set())
    if state.is_executing:
        return list(missing)
    new = [name for name in missing if name not in planned]
    planned.update(new)
    return new
