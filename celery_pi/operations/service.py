"""A service that runs what is on the disk, however the last deploy ended."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from pyinfra import host, logger, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.plan import details, is_of_the_system, will
from celery_pi.shell import announce_restart, assign, is_announced, script

# A `check` for unit files. systemd-analyze only warns of a misspelt key or value, with status 0,
# but names the file when it does.
CHECK_UNIT = (
    '! systemd-analyze verify --man=no --recursive-errors=no "$NEW" 2>&1 | grep -F "${NEW##*/}"'
)

RECORDS = "/var/lib/celery-pi/started"
NAMED = 4  # files that a reason names

SNAPSHOT = script("service_snapshot")
SHOW = script("service_state")
RESTART = script("service_restart")

Snapshot = dict[str, tuple[str, str]]
"""Modification time and digest by path; both empty in what is not there."""


@dataclass(frozen=True)
class Running:
    """systemd's state of a unit, and the watched files now and when it was last started.

    `stop_timeout` is the time that it has to stop, such as `30min 30s`; `started_by_deploy` is
    whether a deploy has started it.
    """

    active: bool
    enabled: bool
    needs_reload: bool
    stop_timeout: str
    now: Snapshot
    then: Snapshot
    started_by_deploy: bool = True


class ServiceState(FactBase[Running]):
    """State of one unit and of the paths it is restarted for, read in one command."""

    def command(self, unit: str, watch: Sequence[str]) -> StringCommand:
        return StringCommand(_variables(unit, watch), SNAPSHOT, SHOW)

    def process(self, output: list[str]) -> Running:
        now, then = output.index("now"), output.index("then")
        properties = dict(line.split("=", 1) for line in output[:now])
        return Running(
            active=properties["ActiveState"] == "active",
            enabled=properties["UnitFileState"] == "enabled",
            needs_reload=properties["NeedDaemonReload"] == "yes",
            stop_timeout=properties.get("TimeoutStopUSec", ""),
            now=_snapshot(output[now + 1 : then]),
            then=_snapshot(output[then + 2 :]),
            started_by_deploy=output[then + 1 :] != [],
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

    A unit that `drains` finishes its work when it is stopped; the log shows how long that may take.
    `reload_for` are those that it reads again on a reload. `limits` are drop-ins with settings
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
        _add_to_plan(unit, running, verb, reason, managed)
        if state.config.DIFF:
            details(host, f"Will {verb} {unit}: {reason}")
        if drains and running.active and state.is_executing:
            host.log(f"{unit} finishes its work first, within {running.stop_timeout}", logger.info)
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


def _add_to_plan(
    unit: str, running: Running, verb: Literal["restart", "reload"], reason: str, managed: bool
) -> None:
    """What runs and was started by no deploy is its owner's, whoever looks after it from now on."""
    if not running.active:
        will(host, "start", unit)
        return
    is_owners = not (managed and running.started_by_deploy) and not is_of_the_system(unit)
    why = reason if is_owners else ""
    will(host, verb, unit, why, is_owners=is_owners, recorded=reason)


def _reason(running: Running, watch: Sequence[str]) -> str:
    """Why the unit must be started again, or nothing."""
    if not running.active:
        return "it is not running"
    changed = [path for path in watch if running.now.get(path) != running.then.get(path)]
    if changed:
        return f"{_named(changed)} changed since it was started"
    announced = [path for path in watch if is_announced(host, path)]
    return f"{_named(announced)} will change" if announced else ""


def _named(paths: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = len(paths) - NAMED
    return ", ".join(paths[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _variables(unit: str, watch: Sequence[str]) -> StringCommand:
    return assign(unit=unit, record=f"{RECORDS}/{unit}", watch=" ".join(watch))


def _snapshot(lines: list[str]) -> Snapshot:
    snapshot: Snapshot = {}
    for line in lines:
        if line.startswith("time "):
            _, time, path = line.split(" ", 2)
            snapshot[path] = (time, snapshot.get(path, ("", ""))[1])
        elif line:
            digest, path = line.split("  ", 1)
            snapshot[path] = (snapshot.get(path, ("", ""))[0], digest)
    return snapshot
