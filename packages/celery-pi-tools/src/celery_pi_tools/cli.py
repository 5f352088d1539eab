#!/usr/bin/python3
"""Managed by celery-pi. Looks at this Pi's Redis and Celery.

Exit status: 0 all is well, 1 something is wrong, 2 it could not look. Uses Python's standard
library and systemd only, so that it works when the app's environment is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIBRARY = "/usr/local/lib/celery-pi"
sys.path.insert(0, LIBRARY)
from celery_pi_privileges import Done, Refused, attempt  # noqa: E402
from celery_pi_text import printable  # noqa: E402

SETTINGS = Path("/etc/celery-pi/settings.json")
MAINTENANCE = Path("/var/lib/celery-pi/maintenance/page.html")
UNITS = ("redis-server", "celery-worker", "celery-beat")
LAUNCHER = f"{LIBRARY}/with-env-file"
PROOF = f"{LIBRARY}/prove_task.py"
# Of the worker's unit, all counts for what runs in its place but how it is started and stopped.
HOW_IT_RUNS = re.compile(
    r"(?:Exec(?!Paths)|Restart|Timeout|Watchdog|Kill|SendSIG|Start|Log|Standard)|Type$|OOM|NotifyAccess$"
)
CONTINUED = re.compile(r"\\\r?\n")
CHECK = f"{LIBRARY}/check_app.py"
TASK = "celery.accumulate"  # registered in every Celery app
TASK_ID = re.compile(r"[0-9a-f-]{36}")
# Run as the site's user: becomes `celery call` in the environment that the file holds, which then
# shows in no list of processes.
SITE = """
import os
with open({file!r}, "rb") as file:
    pairs = [line.partition(b"=") for line in file.read().split(b"\\0")]
os.chdir({app!r})
command = [{celery!r}, "-A", {module!r}, "call", {task!r}, "--args", "[1]"]
os.execve(command[0], command, {{name: value for name, equals, value in pairs if equals}})
"""
# Programs of their own; what `restore` takes it says by --help.
PROGRAMS = ("set-aside", "doctor", "deploys", "maintenance", "backup", "restore", "drill")
PATIENCE = 120  # seconds; the proof itself gives up after 60, an emulated Pi loads slowly


def main() -> int:
    parser = argparse.ArgumentParser(prog="celery-pi", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prove", help="run a task through broker, worker and result store")
    aside = commands.add_parser("set-aside", help="list tasks that were lost with their process")
    aside.add_argument("--return", action="store_true", help="put them back to their queues")
    doctor = commands.add_parser("doctor", help="find the known problems, and repair them")
    doctor.add_argument("--fix", action="store_true", help="do what is safe, and look again")
    doctor.add_argument("--json", action="store_true", help="for programs")
    checks = commands.add_parser(
        "check", help="tell whether the worker would run the app as it is now"
    )
    checks.add_argument("--candidate", metavar="DIRECTORY", help=argparse.SUPPRESS)
    for name, what in (("status", "how all is"), ("audit", "whether all is as closed as it was")):
        looks = commands.add_parser(name, help=f"tell {what}")
        looks.add_argument("--json", action="store_true", help="for programs")
    deploys = commands.add_parser("deploys", help="list the deploys that changed something")
    deploys.add_argument("--json", action="store_true", help="for programs")
    maintenance = commands.add_parser("maintenance", help="show a page, and begin no task")
    maintenance.add_argument("state", nargs="?", choices=("on", "off"))
    maintenance.add_argument("--message", help="what the page says")
    commands.add_parser("backup", help="make a backup of Redis and the app now")
    commands.add_parser("drill", help="restore the newest backup on trial, and compare")
    restore = commands.add_parser(
        "restore", help="put a backup in the place of what is there", add_help=False
    )
    restore.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments, left = parser.parse_known_args()
    command = arguments.command
    if left and command != "restore":
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if os.geteuid() != 0:
        print("celery-pi: must run as root: sudo celery-pi", file=sys.stderr)
        return 2
    if command in PROGRAMS:
        os.execv(f"{LIBRARY}/{command}", [command, *sys.argv[2:]])
    try:
        settings = json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        print(f"celery-pi: {SETTINGS} cannot be read: {error}", file=sys.stderr)
        return 2
    if command in ("status", "audit"):
        from celery_pi_checks import report  # the other commands need none of it

        return report.main(command, settings, arguments.json)
    return prove(settings) if command == "prove" else check(settings, arguments.candidate)


def prove(settings: dict[str, Any]) -> int:
    """Show the machine, the units and a task; 1 if a unit is not active or the task fails."""
    print(f"machine        {platform.machine()}, {os_name()}, {platform.node()}")
    from celery_pi_checks.look import of_flower  # `check` needs none of it

    names = (*UNITS, *of_flower(settings))
    units = {unit: properties(unit) for unit in names}
    for unit, shown in units.items():
        print(f"{unit:<14} {shown['ActiveState']} ({shown['SubState']}), pid {shown['MainPID']}")
    down = [unit for unit, shown in units.items() if shown["ActiveState"] != "active"]
    if MAINTENANCE.exists() and not down:
        done, line = True, "not sent: maintenance is on (celery-pi maintenance off)"
    elif down:
        done, line = False, f"not sent: {', '.join(down)} must be active"
    else:
        done, line = run_task(settings, units["celery-worker"]["MainPID"])
    print(f"{'task':<14} {line}")
    for unit in (settings["app_units"] or ()) if done and "SUCCESS" in line else ():
        sent, line = from_the_site(settings, unit)
        print(f"{'site':<14} {unit}: {line}")
        done = done and sent
    return 0 if done else 1


def from_the_site(settings: dict[str, Any], unit: str) -> tuple[bool, str]:
    """Send a task as one of the unit's processes would: as its user, in its environment, with the
    app's own configuration and nothing of ours."""
    found = site_process(unit)
    if found is None:
        return True, "not asked: no process of it runs as another user than root"
    pid, user, environment = found
    app, venv = settings["app_dir"], settings["app_venv_dir"]
    with tempfile.TemporaryDirectory(dir="/run", prefix="celery-pi-site.") as scratch:
        Path(scratch).chmod(0o711)
        file = Path(scratch, secrets.token_hex(16))
        file.touch(mode=0o600)
        file.write_bytes(environment)
        shutil.chown(file, user)
        celery, module = f"{app}/{venv}/bin/celery", settings["app_module"]
        script = SITE.format(file=str(file), app=app, celery=celery, module=module, task=TASK)
        try:
            run = attempt(user, ("/usr/bin/python3", "-I", "-S", "-c", script), timeout=PATIENCE)
        except Refused as refused:
            return False, f"FAILED: {refused}"
    said = run.out.decode(errors="replace").split()
    if run.status or not said or not TASK_ID.fullmatch(said[-1]):
        return False, f"FAILED: as {user} the site cannot send: systemctl restart {unit}"
    return True, f"{TASK}[{said[-1]}] sent as {user}, like process {pid}"


def site_process(unit: str) -> tuple[int, str, bytes] | None:
    """Number, user and environment of the newest process of the unit that is not root's."""
    group = subprocess.run(
        ["systemctl", "show", "-P", "ControlGroup", unit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    try:
        listed = Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split() if group else []
    except OSError:
        return None
    for pid in sorted(map(int, listed), reverse=True):
        process = Path(f"/proc/{pid}")
        try:
            uid, environment = process.stat().st_uid, (process / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if uid:
            return pid, pwd.getpwuid(uid).pw_name, environment
    return None


def run_task(settings: dict[str, str], worker_pid: str) -> tuple[bool, str]:
    """Send a task in the worker's environment; its outcome as one line."""
    run = as_worker(settings, PROOF, worker_pid)
    if run is None:
        return False, f"no result within {PATIENCE} s; see: journalctl -u celery-worker"
    if run.status != 0:
        said = own_words(run)
        reason = said[-1].removeprefix("celery-pi: ") if said else "the app could not be loaded"
        return False, f"FAILED: {reason}"
    return True, printable(run.out.decode(errors="replace").strip())


def check(settings: dict[str, str], candidate: str | None = None) -> int:
    """Say what is wrong with the app as it lies on the disk; 1 if the worker would not run it.

    With a candidate, as it would be run with that directory's `.env`, unit and `sandbox`.
    """
    run = as_worker(settings, CHECK, candidate=candidate)
    said = own_words(run) if run else [f"celery-pi: the app did not load within {PATIENCE} s"]
    if run and run.status != 0 and not said:
        said = [
            f"celery-pi: the app cannot be started in the worker's sandbox (status {run.status})"
        ]
    for line in said:
        print(line, file=sys.stderr)
    return 0 if run and run.status == 0 else 1


def as_worker(settings: dict[str, str], *argv: str, candidate: str | None = None) -> Done | None:
    """Run a script in the worker's environment and sandbox; none if it does not end.

    As a unit of its own: what it runs is the app's, and gets nothing of root's, no terminal either.
    """
    unit = f"celery-pi-{os.getpid()}-{time.monotonic_ns()}.service"
    command = ["/usr/bin/systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}"]
    # Should we be ended meanwhile, systemd ends it.
    command += ["-pLimitCORE=0", "-pNoNewPrivileges=yes", f"-pRuntimeMaxSec={2 * PATIENCE}"]
    command += [f"-p{line}" for file in unit_files(candidate) for line in service_lines(file)]
    app, venv = settings["app_dir"], settings["app_venv_dir"]
    env = f"{candidate}/.env" if candidate else f"{app}/.env"
    command += [LAUNCHER, env, f"{app}/{venv}/bin/python", *argv]
    try:
        return attempt("root", command, timeout=PATIENCE)
    except Refused:
        # At once: it may hang, be stopped by a signal, or print for ever.
        attempt("root", ("/usr/bin/systemctl", "kill", "--signal=KILL", unit), timeout=PATIENCE)
        return None


def unit_files(candidate: str | None) -> list[Path]:
    """Those of the worker's unit, in the order in which systemd reads them."""
    name = "celery-worker.service"
    files = {path.name: path for path in Path(f"/etc/systemd/system/{name}.d").glob("*.conf")}
    unit = Path(f"/etc/systemd/system/{name}")
    if candidate:
        unit, files["sandbox.conf"] = Path(candidate, name), Path(candidate, "sandbox")
    return [unit, *(files[key] for key in sorted(files))]


def service_lines(file: Path) -> list[str]:
    """`Name=value` of each setting of its section Service that another program shares."""
    lines, section = [], ""
    for line in CONTINUED.sub(" ", file.read_text()).splitlines():
        name, equals, _ = line.strip().partition("=")
        if line.startswith("["):
            section = line.strip()
        elif section == "[Service]" and equals and not name.startswith(("#", ";")):
            lines += [] if HOW_IT_RUNS.match(name) else [line.strip()]
    return lines


def own_words(run: Done) -> list[str]:
    """Lines that are ours alone: a traceback of the app may show its settings."""
    said = run.err.decode(errors="replace").splitlines()
    return [printable(line) for line in said if line.startswith("celery-pi: ")]


def properties(unit: str) -> dict[str, str]:
    """What systemd says of a unit."""
    command = ["systemctl", "show", "-p", "ActiveState,SubState,MainPID", f"{unit}.service"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in shown.splitlines())


def os_name() -> str:
    return platform.freedesktop_os_release()["PRETTY_NAME"]


if __name__ == "__main__":
    sys.exit(main())
