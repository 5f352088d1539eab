"""Managed by celery-pi. The command `celery-pi smoke-test`: a task through broker, worker and
result store, and one as the site would send it."""

from __future__ import annotations

import platform
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from celery_pi_tools import manifest, worker_sandbox
from celery_pi_tools.config import MAINTENANCE_PAGE, Settings
from celery_pi_tools.privileges import PYTHON, Refused, attempt
from celery_pi_tools.process import LARGEST, environment
from celery_pi_tools.text import printable

# Without these there is no task, or nothing shows it.
NEEDED = ("redis-server", "celery-worker", "celery-beat", "celery-flower", "nginx")
MODULE = "celery_redis_guard.smoke_test"
TASK = "celery.accumulate"  # registered in every Celery app
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
TASK_ID = re.compile(r"[0-9a-f-]{36}")
# Run as the site's user: becomes `celery call` in the environment that the file holds, which then
# appears in no list of processes.
SITE = """
import os
with open({file!r}, "rb") as file:
    pairs = [line.partition(b"=") for line in file.read().split(b"\\0")]
os.chdir({app!r})
command = [{celery!r}, "-A", {module!r}, "call", {task!r}, "--args", "[1]"]
os.execve(command[0], command, {{name: value for name, equals, value in pairs if equals}})
"""


def main(settings: Settings) -> int:
    """Shows the machine, the units and a task; 1 if a unit is not active or the task fails, 2 where
    no deploy has noted any unit."""
    print(f"machine        {platform.machine()}, {os_name()}, {platform.node()}")
    units = {unit: properties(unit) for unit in manifest.units() if unit in NEEDED}
    if not units:
        print(f"celery-pi: {manifest.FILE} names no units: deploy again", file=sys.stderr)
        return 2
    for unit, state in units.items():
        print(f"{unit:<14} {state['ActiveState']} ({state['SubState']}), pid {state['MainPID']}")
    down = [unit for unit, state in units.items() if state["ActiveState"] != "active"]
    if MAINTENANCE_PAGE.exists() and not down:
        succeeded, line = True, "not sent: maintenance is on (celery-pi maintenance off)"
    elif down:
        succeeded, line = False, f"not sent: {', '.join(down)} must be active"
    else:
        succeeded, line = run_task(settings, units["celery-worker"]["MainPID"])
    print(f"{'task':<14} {line}")
    for unit in (settings["app_units"] or ()) if succeeded and "SUCCESS" in line else ():
        site_succeeded, line = send_as_site(settings, unit)
        print(f"{'site':<14} {unit}: {line}")
        succeeded = succeeded and site_succeeded
    return 0 if succeeded else 1


def run_task(settings: Settings, worker_pid: str) -> tuple[bool, str]:
    """Sends a task in the worker's environment; whether it succeeded, and that in one line."""
    run = worker_sandbox.run_module(settings, MODULE, worker_pid)
    if run is None:
        timeout = worker_sandbox.TIMEOUT
        return False, f"no result within {timeout} s; see: journalctl -u celery-worker"
    if run.status != 0:
        lines = worker_sandbox.messages(run)
        reason = lines[-1].removeprefix("celery-pi: ") if lines else "the app could not be loaded"
        return False, f"FAILED: {reason}"
    return True, printable(run.out.decode(errors="replace").strip())


def send_as_site(settings: Settings, unit: str) -> tuple[bool, str]:
    """Sends a task as one of the unit's processes would: as its user, in its environment, with the
    app's own configuration and without ours. Whether that succeeded, and a line about it."""
    try:
        process = site_process(unit)
    except Refused as refused:
        return False, f"FAILED: {refused}"
    if process is None:
        return True, "not asked: no process of it runs as another user than root"
    pid, user, variables = process
    app, venv = settings["app_dir"], settings["app_venv_dir"]
    with tempfile.TemporaryDirectory(dir="/run", prefix="celery-pi-site.") as scratch:
        Path(scratch).chmod(0o711)
        file = Path(scratch, secrets.token_hex(16))
        file.touch(mode=0o600)
        file.write_bytes(variables)
        shutil.chown(file, user)
        celery, module = f"{app}/{venv}/bin/celery", settings["app_module"]
        script = SITE.format(file=str(file), app=app, celery=celery, module=module, task=TASK)
        try:
            run = attempt(user, (PYTHON, "-I", "-S", "-c", script), timeout=worker_sandbox.TIMEOUT)
        except Refused as refused:
            return False, f"FAILED: {refused}"
    words = run.out.decode(errors="replace").split()
    if run.status or not words or not TASK_ID.fullmatch(words[-1]):
        return False, f"FAILED: as {user} the site cannot send: systemctl restart {unit}"
    return True, f"{TASK}[{words[-1]}] sent as {user}, like process {pid}"


def site_process(unit: str) -> tuple[int, str, bytes] | None:
    """Number, user and environment of the newest process of the unit that is not root's. Raises
    Refused if no program could be started with that environment."""
    group = subprocess.run(
        ["systemctl", "show", "-P", "ControlGroup", unit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    try:
        file = CGROUPS / group.lstrip("/") / "cgroup.procs"
        listed = file.read_text().split() if group else []
    except OSError:
        return None
    for pid in sorted(map(int, listed), reverse=True):
        try:
            uid, variables = (PROC / str(pid)).stat().st_uid, environment(PROC / str(pid))
        except OSError:  # it has ended
            continue
        if uid and variables is None:
            raise Refused(f"the environment of process {pid} is larger than {LARGEST} bytes")
        if uid and variables is not None:
            return pid, pwd.getpwuid(uid).pw_name, variables
    return None


def properties(unit: str) -> dict[str, str]:
    """systemd's state of a unit."""
    command = ["systemctl", "show", "-p", "ActiveState,SubState,MainPID", f"{unit}.service"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def os_name() -> str:
    return platform.freedesktop_os_release()["PRETTY_NAME"]
