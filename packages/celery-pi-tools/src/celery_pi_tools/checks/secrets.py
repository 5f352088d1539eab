"""Managed by celery-pi. Secrets: who can read them, how strong they are, where they show."""

from __future__ import annotations

from collections.abc import Iterator

from celery_pi_tools.checks.permissions import STORE, Expected, secrets, stored
from celery_pi_tools.checks.processes import PROC, pids
from celery_pi_tools.checks.registry import Finding, Function, check, ok, wrong
from celery_pi_tools.process import command_line
from celery_pi_tools.system import System

SHORTEST, SHORTEST_TYPED = 32, 16  # characters; the latter of a password that a person types


def private(file: Expected) -> Function:
    """A check of the file's mode and owners; a missing file is left out."""

    def judge(_: System) -> Finding | None:
        if not file.path.exists():
            return None
        current = file.differs()
        if current:
            return wrong(f"{current}, not {file.described}", "deploy again")
        return ok(file.described)

    return judge


for secret in secrets():
    if secret.path.parent != STORE:  # `stored` has those in it
        shown = "the app's .env" if secret.path.name == ".env" else str(secret.path)
        check("Secrets", shown, "audit")(private(secret))


@check("Secrets", "Stored passwords", "audit")
def passwords_private(_: System) -> Finding:
    files = stored()
    open_files = [f"{file.path.name} {how}" for file in files if (how := file.differs())]
    if open_files:
        return wrong(f"not 600 root:root: {', '.join(open_files)}", "deploy again")
    return ok(f"{len(files)} files, 600 root:root", files=len(files))


@check("Secrets", "Length of passwords", "audit")
def strength(_: System) -> Finding:
    weak = [name for name, password in passwords() if len(password) < shortest(name)]
    if weak:
        remedy = "make rotate; one of your own: redis_password_file, flower_password_file"
        return wrong(f"too short: {', '.join(sorted(weak))}", remedy, weak=weak)
    return ok(f"{SHORTEST} characters or more, {SHORTEST_TYPED} where one is typed", weak=[])


def shortest(name: str) -> int:
    return SHORTEST_TYPED if name == "flower_login" else SHORTEST


def passwords() -> Iterator[tuple[str, str]]:
    """File name and text of each stored password."""
    for file in STORE.iterdir():
        for line in file.read_text().splitlines():
            typed = line.partition(":")[2] if file.name == "flower_login" else line
            yield file.name, typed


@check("Secrets", "In command lines", "audit")
def command_lines(_: System) -> Finding:
    secrets = [password.encode() for _, password in passwords() if password]
    processes = sorted(
        name(pid)
        for pid in pids()
        if (line := command_line(PROC / str(pid))) and any(secret in line for secret in secrets)
    )
    if processes:
        remedy = "end it; give it the password by a file, and make rotate"
        return wrong(f"a password shows in ps: {', '.join(processes)}", remedy, processes=processes)
    return ok("no process shows a password", processes=[])


def name(pid: int) -> str:
    try:
        return f"{(PROC / str(pid) / 'comm').read_text().strip()} {pid}"
    except (FileNotFoundError, ProcessLookupError):
        return str(pid)
