"""Debian packages, also on a machine that lost its power in the middle of an installation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pyinfra import host, logger, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi import before
from celery_pi.plan import is_planned, will
from celery_pi.shell import assign, read_quietly

# Taken with fcntl(2) by apt and dpkg while they work; /proc/locks names the process that holds one.
LOCKS = "/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock"

# dpkg keeps its unfinished steps in `updates`; until they are done, apt refuses to do anything.
# While another process holds the lock, those are its steps, and nothing was interrupted.
SHOW = r"""
unfinished=
ls /var/lib/dpkg/updates | grep -q '^[0-9]' && unfinished=1
for p in $packages; do
  case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
    *' ok installed') ;;  # wanted, or held where it is
    'install ok '*) unfinished=1; echo "missing $p" ;;
    *) echo "missing $p" ;;
  esac
done
if [ "$unfinished" ]; then
  holder=
  for lock in $locks; do
    inode=$(stat -c %i "$lock" 2>/dev/null) || continue  # dpkg has never run
    pid=$(sed -n "s/^[0-9]*: POSIX .* \([0-9]*\) [0-9a-f]*:[0-9a-f]*:$inode .*/\1/p" /proc/locks)
    [ -z "$pid" ] || holder=${pid%%[!0-9]*}
  done
  if [ -z "$holder" ]; then echo interrupted
  else echo "busy $(cat "/proc/$holder/comm" 2>/dev/null) ($holder)"; fi
fi
[ -e "$installed" ] || echo unrecorded
true  # nothing to say is an answer
"""

# Seconds to wait for another apt or dpkg. On the first day of a Pi it is unattended-upgrades, which
# gives the lock back after each few packages. `before.INSTALLED_BY_US` knows our calls by it.
WAITING = 300

# needrestart, where it is installed, would start services again in the midst of a deploy.
APT = (
    "DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=yes "
    f"apt-get -q -y -o DPkg::Lock::Timeout={WAITING}"
)

# dpkg takes its lock itself, but does not wait for it. Debian 12's says that "another" process has
# it, and Debian 13's which. Its output goes to a file, as a daemon that a package starts may keep
# it open.
CONFIGURE = r"""
umask 077; mkdir -p "${said%/*}"
end=$(($(date +%s) + waiting))
is_locked() { [ $status != 0 ] && grep -q 'lock was locked by .* process' "$said"; }
while
  LC_ALL=C DEBIAN_FRONTEND=noninteractive dpkg --configure -a --force-confold >"$said" 2>&1
  status=$?
  is_locked && [ "$(date +%s)" -lt $end ]
do sleep 5; done
cat "$said" >&2
! is_locked ||
  echo "celery-pi: another apt or dpkg still works after $waiting s: deploy again later" >&2
rm -f "$said"
(exit $status)
"""

# It changes nothing, not even apt's own cache, and needs no root for it.
SIMULATE = (
    "LC_ALL=C apt-get -qq -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= --simulate install"
)
REMOVED = r"2>/dev/null | sed -n 's/^Remv \([^ ]*\).*/\1/p'"

FETCHED = "celery_pi_package_lists"
PLANNED = "celery_pi_planned_packages"
RECORDING = "celery_pi_begins_record_of_packages"

# `update` does not know the lock's time-out: another apt makes it fail at once. After any other
# failure it is tried three times. One dead source, where others answer, keeps nobody from what
# those have.
UPDATE = f"""
umask 077; mkdir -p "${{said%/*}}"
tries=0 end=$(($(date +%s) + waiting))
while
  LC_ALL=C {APT} update >"$said" 2>&1
  status=$?
  if grep -q '^E: Could not get lock' "$said"; then [ "$(date +%s)" -lt $end ]
  else tries=$((tries + 1)); [ $status != 0 ] && [ $tries -lt 3 ]; fi
do sleep 10; done
cat "$said" >&2
[ $status = 0 ] || grep -qE '^(Hit|Get):' "$said"
"""
DEAD = r"""
sed -n 's/^[EW]: \(Failed to fetch .*\|.*does not have a Release file\..*\)/\1/p' "$said" | sort -u
rm -f "$said"
"""

# Debian's own means to keep packages from starting their services (deb-systemd-invoke(1p)). It says
# no only while the lock is held, so one that is left behind by a power cut keeps nothing down; and
# only to a start, so what runs is restarted when it is upgraded. Somebody else's stays as it is.
POLICY = "/usr/sbin/policy-rc.d"
LOCK = "/run/celery-pi/apt.lock"
SAID = "/run/celery-pi/apt.update"
CONFIGURED = "/run/celery-pi/dpkg.configure"
MARK = "# Managed by celery-pi, and here while it installs packages."
SAY_NO = """#!/bin/sh
{mark}
case $1 in --*) shift ;; esac
case " {not_starting} " in *" ${1%.service} "*) ;; *) exit 0 ;; esac
[ "$2" = start ] || exit 0
flock -n {lock} true || exit 101
"""
HOLD = r"""
if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
  mkdir -p -m 0700 "${lock%/*}"
  exec 9>"$lock"
  flock 9
  trap 'rm -f "$policy"' EXIT
  printf '%s' "$text" >"$policy.new"
  chmod 0755 "$policy.new"
  mv "$policy.new" "$policy"
fi
"""


@dataclass(frozen=True)
class Packages:
    """Which of the packages are not installed, whether dpkg was interrupted, whether nothing tells
    yet which ones we have installed, and the process that is at work on packages, as in
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
    Beyond pyinfra's `apt.packages`, it waits for another apt or dpkg (`WAITING` seconds for each
    command), completes what dpkg left unfinished once nobody holds its lock, and does not count
    the age of the package lists as a change.
    """
    now = host.get_fact(DebianPackages, packages=list(packages))
    missing = _not_planned(now.missing)
    unrecorded = now.unrecorded and _is_first()
    _tell(now, missing)
    if now.interrupted or now.busy:
        yield StringCommand(assign(said=CONFIGURED, waiting=str(WAITING)), CONFIGURE)
        if state.is_executing:  # what the other process has installed meanwhile is not missing
            missing = list(host.get_fact(DebianPackages, packages=list(packages)).missing)
    if missing:
        if not host.connector_data.get(FETCHED):
            yield StringCommand(assign(said=SAID, waiting=str(WAITING)), UPDATE)
            host.connector_data[FETCHED] = True  # not before it has been run, and well
            _tell_of_dead_sources()
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


def _noted(news: Sequence[str]) -> StringCommand:
    """Command that adds those of the packages that are not there to what we have installed."""
    words = assign(installed=before.INSTALLED, history=before.HISTORY, new=" ".join(news))
    return StringCommand(words, before.INSTALLED_BY_US, before.NOTE_INSTALLED, "note_installed")


def _tell(now: Packages, missing: Sequence[str]) -> None:
    """Say, while planning, what comes and what has to go for it."""
    if not is_planned(host):
        return
    if now.interrupted:
        will(host, "change", "packages", "completes what dpkg was interrupted in")
    if now.busy:
        will(host, "change", "packages", f"waits for {now.busy}, which is at work on them")
    for name in missing:
        will(host, "install", name)
    for name in _in_the_way(missing):
        will(host, "remove", name, "apt takes it away for what is installed", theirs=True)


def _in_the_way(missing: Sequence[str]) -> list[str]:
    """What apt would remove; without package lists it knows of nothing.

    It takes seconds on a Pi. Sent with an input, however empty, it is no question that the next
    deploy would ask too.
    """
    if not missing:
        return []
    names = [QuoteString(name) for name in missing]
    _, output = host.run_shell_command(StringCommand(SIMULATE, *names, REMOVED), _stdin="\n")
    return sorted({line for line in output.stdout_lines if line not in missing})


def _tell_of_dead_sources() -> None:
    if state.is_executing:
        for line in read_quietly(host, StringCommand(assign(said=SAID), DEAD)).splitlines():
            host.log(f"apt goes on without a source that is dead: {line}", logger.warning)


def _not_starting(units: Sequence[str]) -> StringCommand:
    text = SAY_NO.replace("{mark}", MARK).replace("{lock}", LOCK)
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
    news = [name for name in missing if name not in planned]
    planned.update(news)
    return news
