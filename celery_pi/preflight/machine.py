"""What must be true of a machine before anything on it is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pyinfra.api import FactBase, StringCommand

from celery_pi.deploys.lock import NEWEST, RECORDS
from celery_pi.facts.nginx import port_problem
from celery_pi.privileges import READ_AS
from celery_pi.settings import (
    LARGEST_SHARE,
    SMALLEST_MAXMEMORY,
    Settings,
    of_memory,
    size_in_bytes,
)
from celery_pi.shell import assign, script

RELEASES = {"12": "bookworm", "13": "trixie"}
ARCHITECTURES = ("arm64", "amd64")
FREE_DISK = 1024  # MiB: packages and the app's environment take about 600
OLDEST_PYTHON = (3, 11)  # Debian 12's

SHOW = NEWEST + READ_AS + script("machine")


class Machine(FactBase[dict[str, str]]):
    """Name and value of each thing preflight wants to know, read in one command."""

    default = dict

    def command(
        self,
        app: str,
        module: str,
        user: str,
        venv: str,
        units: Sequence[str],
        files: Sequence[str] = (),
    ) -> StringCommand:
        path = module.replace(".", "/")
        names = assign(units=" ".join(units), files=" ".join(files), records=RECORDS)
        return StringCommand(assign(app=app, module=path, user=user, venv=venv), names, SHOW)

    def process(self, output: list[str]) -> dict[str, str]:
        values = dict(line.split("=", 1) for line in output)
        limit = int(values.pop("allowed") or 0)
        if 0 < limit < int(values["memory"]):
            values["memory"] = str(limit)
        return values


def is_one_of_ours(machine: dict[str, str]) -> bool:
    """Whether more can be read of it: on another system the facts would mean nothing, and only
    root can read them all. Without an app there is no site."""
    is_debian = machine["os"] in ("debian", "raspbian") and machine["init"] == "systemd"
    return is_debian and machine["uid"] == "0" and "app" in machine


def problems(machine: dict[str, str], settings: Settings) -> Iterator[str]:
    """A sentence for each thing that keeps us from deploying to this machine."""
    if machine["os"] not in ("debian", "raspbian") or machine["release"] not in RELEASES:
        yield f"it runs {machine['os']} {machine['release']}, not Debian 12 or 13"
    if machine["architecture"] not in ARCHITECTURES:
        yield f"its packages are for {machine['architecture']}, not arm64 or amd64"
    if machine["init"] != "systemd":
        yield f"its first process is {machine['init']}, not systemd"
    if machine["uid"] != "0":
        yield "we are not root on it: name a user who may use sudo, and set _sudo"
    if int(machine["disk"]) < FREE_DISK:
        yield f"/var has {machine['disk']} MiB free, and a deploy needs {FREE_DISK}"
    yield from _memory_problems(int(machine["memory"]), settings.redis_maxmemory)
    yield from _app_problems(machine, settings)
    if settings.flower and settings.nginx_server:
        yield from _web_problems(machine)


def _memory_problems(memory: int, maxmemory: str) -> Iterator[str]:
    size = size_in_bytes(of_memory(maxmemory, memory))
    if size > memory * 2**20 * LARGEST_SHARE // 100:
        yield (
            f"redis_maxmemory {maxmemory} is more than half of its memory "
            f"({memory} MiB), and Redis may need as much again to save"
        )
    if size < size_in_bytes(SMALLEST_MAXMEMORY):
        yield f"redis_maxmemory {maxmemory} of {memory} MiB is less than {SMALLEST_MAXMEMORY}"


def _web_problems(machine: dict[str, str]) -> Iterator[str]:
    if machine.get("absent"):
        yield f"it has no file {machine['absent']} (nginx_certificate, nginx_certificate_key)"
    for server in set(machine.get("web", "").split()) - {"nginx"}:
        yield port_problem(server)


def _app_problems(machine: dict[str, str], settings: Settings) -> Iterator[str]:
    if "user" not in machine:
        yield f"it has no user {settings.app_user} (app_user)"
    if "app" not in machine:
        yield f"there is no Django project in {settings.app_dir} (app_dir): deploy yours first"
    elif "module" not in machine:
        yield f"{settings.app_dir} has no Python module {settings.app_module} (app_module)"
    if "unknown" in machine:
        yield f"it has no unit {machine['unknown']} (app_units)"
    if machine.get("export"):
        yield (
            f"{settings.app_env} has `export` on line {machine['export']}: systemd does not take "
            "such a line, and writes it into the journal, secret and all"
        )
    if "other" in machine and "app_venv_dir" not in settings.model_fields_set:
        yield (
            f"{settings.app_dir} has an environment, {machine['other']}, and {settings.app_venv} "
            f'would be a second one: write app_venv_dir = "{machine["other"]}" in '
            f'group_data/all.py, or "{settings.app_venv_dir}" to have the second'
        )
    if "venv" in machine:
        version = re.match(r"(\d+)\.(\d+)", machine["venv"])
        if not version:
            yield f"{settings.app_venv} is no virtual environment: it has no readable pyvenv.cfg"
        elif (int(version[1]), int(version[2])) < OLDEST_PYTHON:
            yield f"{settings.app_venv} has Python {machine['venv']}, older than 3.11"
