"""Managed by celery-pi. Secrets: who can read them, how strong they are, where they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from celery_pi_tools import manifest
from celery_pi_tools.checks.registry import Function, Result, check, ok, wrong
from celery_pi_tools.file_access import access
from celery_pi_tools.process import command_line
from celery_pi_tools.system import System

STORE = Path("/etc/celery-pi/secrets")
PROC = Path("/proc")
SHORTEST, SHORTEST_TYPED = 32, 16  # characters; the latter of a password that a person types


def private(path: str, wanted: str) -> Function:
    """A check of the file's mode and owners; a missing file is left out."""

    def judge(_: System) -> Result | None:
        file = Path(path)
        if not file.exists():
            return None
        found = access(file)
        return ok(found) if found == wanted else wrong(f"{found}, not {wanted}", "deploy again")

    return judge


for secret in manifest.secrets():
    if Path(secret["path"]).parent != STORE:  # `stored` checks those in it
        shown = "the app's .env" if secret["path"].endswith("/.env") else secret["path"]
        access_wanted = "{mode} {owner}:{group}".format(**secret)
        check("Secrets", shown)(private(secret["path"], access_wanted))


@check("Secrets", "Stored passwords")
def stored(_: System) -> Result:
    files = sorted(STORE.iterdir())
    found = [f"{file.name} {access(file)}" for file in files if access(file) != "600 root:root"]
    if found:
        return wrong(f"not 600 root:root: {', '.join(found)}", "deploy again")
    return ok(f"{len(files)} files, 600 root:root", files=len(files))


@check("Secrets", "Length of passwords")
def strength(_: System) -> Result:
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


@check("Secrets", "In command lines")
def command_lines(_: System) -> Result:
    secrets = [password.encode() for _, password in passwords() if password]
    found = sorted(
        name(process)
        for process in PROC.glob("[0-9]*")
        if (shown := command_line(process)) and any(secret in shown for secret in secrets)
    )
    if found:
        remedy = "end it; give it the password by a file, and make rotate"
        return wrong(f"a password shows in ps: {', '.join(found)}", remedy, processes=found)
    return ok("no process shows a password", processes=[])


def name(process: Path) -> str:
    try:
        return f"{(process / 'comm').read_text().strip()} {process.name}"
    except (FileNotFoundError, ProcessLookupError):
        return process.name
