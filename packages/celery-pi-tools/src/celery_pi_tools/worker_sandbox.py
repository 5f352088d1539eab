"""Managed by celery-pi. Programs that run as the worker does: its user, environment and sandbox."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from celery_pi_tools.config import LIBRARY, Settings
from celery_pi_tools.privileges import Done, Refused, attempt
from celery_pi_tools.text import printable

UNITS = Path("/etc/systemd/system")
LAUNCHER = f"{LIBRARY}/with-env-file"
TIMEOUT = 120  # seconds; the smoke test itself gives up after 60, an emulated Pi loads slowly
# Settings of the worker's unit that do not apply to another program in the same sandbox.
START_AND_STOP = re.compile(
    r"(?:Exec(?!Paths)|Restart|Timeout|Watchdog|Kill|SendSIG|Start|Log|Standard)|Type$|OOM|NotifyAccess$"
)
# Its path is named here, because the unit of an earlier version, which is there until a deploy
# replaces it, does not name it.
RUN_MODULE = f"""
import runpy, sys
sys.path.append("{LIBRARY}/guard")
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
CONTINUED = re.compile(r"\\\r?\n")


def run_module(
    settings: Settings, module: str, *argv: str, candidate: str | None = None
) -> Done | None:
    """Runs a module of the guard as the worker would; None if it does not end within TIMEOUT.

    It is a transient unit of its own: the module runs the app's code, which must get nothing of
    root's, nor a terminal. `candidate` is a directory with another `.env`, unit and `sandbox`.
    """
    unit = f"celery-pi-{os.getpid()}-{time.monotonic_ns()}.service"
    command = ["/usr/bin/systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}"]
    # If this process is killed meanwhile, systemd ends the unit.
    command += ["-pLimitCORE=0", "-pNoNewPrivileges=yes", f"-pRuntimeMaxSec={2 * TIMEOUT}"]
    command += [f"-p{line}" for file in unit_files(candidate) for line in service_lines(file)]
    app, venv = settings["app_dir"], settings["app_venv_dir"]
    env = f"{candidate}/.env" if candidate else f"{app}/.env"
    command += [LAUNCHER, env, f"{app}/{venv}/bin/python", "-c", RUN_MODULE, module, *argv]
    try:
        return attempt("root", command, timeout=TIMEOUT)
    except Refused:
        # SIGKILL: it may hang, be stopped by a signal, or print without end.
        attempt("root", ("/usr/bin/systemctl", "kill", "--signal=KILL", unit), timeout=TIMEOUT)
        return None


def unit_files(candidate: str | None) -> list[Path]:
    """The worker's unit and its drop-ins, in the order in which systemd reads them."""
    name = "celery-worker.service"
    files = {path.name: path for path in (UNITS / f"{name}.d").glob("*.conf")}
    unit = UNITS / name
    if candidate:
        unit, files["sandbox.conf"] = Path(candidate, name), Path(candidate, "sandbox")
    return [unit, *(files[key] for key in sorted(files))]


def service_lines(file: Path) -> list[str]:
    """The lines `Name=value` of its section Service that apply to any program in the sandbox."""
    lines, section = [], ""
    for line in CONTINUED.sub(" ", file.read_text()).splitlines():
        name, equals, _ = line.strip().partition("=")
        if line.startswith("["):
            section = line.strip()
        elif section == "[Service]" and equals and not name.startswith(("#", ";")):
            lines += [] if START_AND_STOP.match(name) else [line.strip()]
    return lines


def messages(run: Done) -> list[str]:
    """Lines of celery-pi's own alone: a traceback of the app may contain its settings."""
    lines = run.err.decode(errors="replace").splitlines()
    return [printable(line) for line in lines if line.startswith("celery-pi: ")]
