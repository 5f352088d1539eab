"""A service that runs what is on the disk, however the last deploy ended."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from pyinfra import host, logger, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.plan import details, is_of_the_system, will
from celery_pi.shell import announce_restart, assign, is_announced

# A `check` for unit files. systemd-analyze only warns of a misspelt key or value, with status 0,
# but names the file when it does.
CHECK_UNIT = (
    '! systemd-analyze verify --man=no --recursive-errors=no "$NEW" 2>&1 | grep -F "${NEW##*/}"'
)

RECORDS = "/var/lib/celery-pi/started"

# Of all paths at once: processes are what costs time on a Pi. What is missing has no line, what is
# no regular file only a time, as a directory has. Times are kept to the second because a copy of
# the system may drop what is below it. Some of the paths are in others' directories, where root
# reads nothing: what is not root's is read by whoever owns it, 64 MiB of it, for 20 s at most.
SNAPSHOT = r"""
snapshot() {
  find $watch -maxdepth 0 -printf 'time %Ts %p\n' 2>/dev/null || true  # missing is an answer
  timeout -s KILL 20 find $watch -maxdepth 0 -uid 0 -xtype f -size -131073 \
    -exec sha256sum -- {} + 2>/dev/null || true  # the same
  find $watch -maxdepth 0 ! -uid 0 -xtype f -printf '%U %G %p\n' 2>/dev/null |
    while read -r uid gid path; do
      digest=$(timeout -s KILL 20 setsid -w env -i setpriv --reuid "$uid" --regid "$gid" \
        --clear-groups head -c 67108864 -- "$path" </dev/null 2>/dev/null |
        timeout -s KILL 25 sha256sum)
      echo "${digest%% *}  $path"
    done
}
"""

# A unit that is about to start, as one that goes down and up with another is when that one has just
# been started again, is waited for, up to 10 s.
SHOW = r"""
show() {
  shown=$(systemctl show -p ActiveState -p UnitFileState -p NeedDaemonReload -p TimeoutStopUSec \
    -p Job "$unit")
}
is_coming() {
  case $shown in
    *ActiveState=activating*) true ;;
    *ActiveState=inactive*) case $shown in *Job=[1-9]*) true ;; *) false ;; esac ;;
    *) false ;;
  esac
}
show; looks=0
while is_coming && [ $looks -lt 50 ]; do sleep 0.2; show; looks=$((looks + 1)); done
echo "$shown"
echo now; snapshot
echo then; [ ! -e "$record" ] || { echo started; cat "$record"; }
"""

# The record is written after the service is up, from what lay on the disk before it started:
# whatever cuts the run off in between, the next run finds them different and starts again.
# systemd is not asked whether it needs the reload: NeedDaemonReload says no for a drop-in whose
# directory is new (systemd 252), and for a unit whose file was away when it last looked.
RESTART = r"""
set -e
before=$(snapshot)
# A check may look at the unit, and is to see it as it lies on the disk: with another user, say.
[ "$check" = true ] || systemctl daemon-reload
if ! (eval "$check") >&2; then
  echo "$unit is not started again: what runs is left as it is" >&2
  exit 1
fi
shown=$(systemctl show -p ActiveState -p UnitFileState "$unit")
case $managed$shown in
  yes*UnitFileState=enabled* | no*) [ "$check" != true ] || systemctl daemon-reload ;;
  *) systemctl enable --quiet "$unit" ;;  # which has systemd reload too
esac
case $shown in *ActiveState=failed*) systemctl reset-failed "$unit" ;; esac
if ! { timeout -k 30 1d systemctl "$verb" "$unit" && (eval "$ready"); } >&2; then
  journalctl -q -o cat -u "$unit" -n 50 | grep -a '^celery-pi: ' | tail -n 1 >&2
  echo "$unit did not come up; see: journalctl -u $unit -n 50" >&2
  exit 1
fi
mkdir -p -m 0700 "${record%/*}"
printf '%s\n' "$before" >"$record.new"
mv -f "$record.new" "$record"
"""

Snapshot = dict[str, tuple[str, str]]
"""Modification time and digest by path; both empty in what is not there."""


@dataclass(frozen=True)
class Running:
    """What systemd says of a unit, and the watched files now and when it was last started.

    `patience` is the time that it has to stop, such as `30min 30s`; `known` is whether a deploy has
    started it.
    """

    active: bool
    enabled: bool
    needs_reload: bool
    patience: str
    now: Snapshot
    then: Snapshot
    known: bool = True


class ServiceState(FactBase[Running]):
    """State of one unit and of the paths it is restarted for, read in one command."""

    def command(self, unit: str, watch: Sequence[str]) -> StringCommand:
        return StringCommand(_variables(unit, watch), SNAPSHOT, SHOW)

    def process(self, output: list[str]) -> Running:
        now, then = output.index("now"), output.index("then")
        shown = dict(line.split("=", 1) for line in output[:now])
        return Running(
            active=shown["ActiveState"] == "active",
            enabled=shown["UnitFileState"] == "enabled",
            needs_reload=shown["NeedDaemonReload"] == "yes",
            patience=shown.get("TimeoutStopUSec", ""),
            now=_snapshot(output[now + 1 : then]),
            then=_snapshot(output[then + 2 :]),
            known=output[then + 1 :] != [],
        )


@operation()
def service(
    unit: str,
    watch: Sequence[str],
    check: str = "true",
    ready: str = "true",
    managed: bool = True,
    drains: bool = False,
    reload_for: Sequence[str] = (),
    limits: Sequence[str] = (),
) -> Generator[StringCommand]:
    """The unit is enabled and running, and was started since the watched paths last changed.

    `watch` are the files and directories (names without blanks) that it reads. `check` and `ready`
    are shell commands. The former fails, with the reason, when the service could not do its work
    with what is on the disk; one that runs is then left as it is. The latter fails while it cannot.
    Whether to restart is read from the target and not remembered from this run, so a run that dies
    between a write and the restart is completed by the next.

    A unit that `drains` finishes its work when it is stopped; the log says how long that may take.
    What it reads again when told to reload is in `reload_for`. `limits` are drop-ins with settings
    that systemd changes under a running service; for them alone nothing is restarted.
    A unit that is not `managed` is started again when it runs, and is otherwise left alone.
    """
    paths = [*watch, *reload_for]
    running = host.get_fact(ServiceState, unit=unit, watch=paths)
    verb: Literal["restart", "reload"] = "restart" if _reason(running, watch) else "reload"
    reason = _reason(running, paths)
    if not managed and not (running.active and reason):
        host.noop(f"{unit} runs what is on the disk, or is not to run")
        return
    if reason:
        announce_restart(host, unit)
        _tell(unit, running, verb, reason, managed)
        if state.config.DIFF:
            details(host, f"Will {verb} {unit}: {reason}")
        if drains and running.active and state.is_executing:
            host.log(f"{unit} finishes its work first, within {running.patience}", logger.info)
        yield StringCommand(
            _variables(unit, paths),
            assign(check=check, ready=ready, verb=verb, managed="yes" if managed else "no"),
            SNAPSHOT,
            RESTART,
        )
        return
    changing = running.needs_reload or any(is_announced(host, path) for path in limits)
    if not running.enabled:
        will(host, "change", unit, "runs on, and starts with the machine")
        yield StringCommand("systemctl enable --quiet", QuoteString(unit))
    if changing:
        will(host, "change", unit, "runs on, by the settings that systemd reads anew")
        yield StringCommand("systemctl daemon-reload")
    if running.enabled and not changing:
        host.noop(f"{unit} runs what is on the disk")


def _tell(
    unit: str, running: Running, verb: Literal["restart", "reload"], reason: str, managed: bool
) -> None:
    """What runs and was started by no deploy is its owner's, whoever looks after it from now on."""
    if not running.active:
        will(host, "start", unit)
        return
    theirs = not (managed and running.known) and not is_of_the_system(unit)
    will(host, verb, unit, reason if theirs else "", theirs=theirs)


def _reason(running: Running, watch: Sequence[str]) -> str:
    """Why the unit must be started again, or nothing."""
    if not running.active:
        return "it is not running"
    changed = [path for path in watch if running.now.get(path) != running.then.get(path)]
    if changed:
        return f"{', '.join(changed)} changed since it was started"
    announced = [path for path in watch if is_announced(host, path)]
    return f"{', '.join(announced)} will change" if announced else ""


def _variables(unit: str, watch: Sequence[str]) -> StringCommand:
    return assign(unit=unit, record=f"{RECORDS}/{unit}", watch=" ".join(watch))


def _snapshot(lines: list[str]) -> Snapshot:
    found: Snapshot = {}
    for line in lines:
        if line.startswith("time "):
            _, time, path = line.split(" ", 2)
            found[path] = (time, found.get(path, ("", ""))[1])
        elif line:
            digest, path = line.split("  ", 1)
            found[path] = (found.get(path, ("", ""))[0], digest)
    return found
