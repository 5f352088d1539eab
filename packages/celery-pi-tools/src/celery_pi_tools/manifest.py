"""Managed by celery-pi. What the deploys have installed on this machine, from their manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from celery_pi_tools.config import CannotLoad

FILE = Path("/etc/celery-pi/manifest.json")


class Unit(NamedTuple):
    """A unit of a component, by its name without `.service`; `celery_pi/component.py` explains the
    fields."""

    name: str
    why: str
    root: bool
    exposure: float
    daemon: bool
    needs: list[str]
    uses_data: bool


def read() -> dict[str, Any]:
    """The whole manifest; empty before the first deploy that has written one. Raises CannotLoad."""
    try:
        return dict(json.loads(FILE.read_text())) if FILE.exists() else {}
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{FILE} cannot be read: {error}; deploy again") from error


def components() -> Iterator[dict[str, Any]]:
    """What each component states, in the order in which they are deployed and start."""
    yield from read().get("components", {}).values()


def units() -> dict[str, Unit]:
    """The units that are to run all the time, by their names."""
    stated = [Unit(**unit) for component in components() for unit in component["units"]]
    short = [unit._replace(name=unit.name.removesuffix(".service")) for unit in stated]
    return {unit.name: unit for unit in short if unit.daemon}


def ports() -> list[str]:
    """Ports that other machines may reach, such as `80/tcp`."""
    return [port for component in components() for port in component["ports"]]


def secrets() -> Iterator[dict[str, str]]:
    """Files that hold secrets: `path`, `mode`, `owner` and `group`."""
    for component in components():
        yield from component["secrets"]


def files() -> dict[str, list[str]]:
    """Each deployed file's mode, user, group and SHA-256, which is a dash for a secret."""
    return {
        path: [file["mode"], file["owner"], file["group"], file["sha256"] or "-"]
        for path, file in read().get("files", {}).items()
    }
