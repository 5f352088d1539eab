"""Managed by celery-pi. Validation of an archive's manifest, which anybody may have written."""

from __future__ import annotations

from typing import Any

LATEST = 2**36  # seconds; the year 4147


def check_manifest(manifest: dict[str, Any]) -> None:
    """Checks that what is used of it exists and has the right type. Raises ValueError, KeyError."""
    members, versions = _of(manifest["members"], list), _of(manifest["versions"], dict)
    for member in members:
        _of(_of(member, dict)["name"], str)
        _of(member["sha256"], str)
        _count(member["size"])
    int(_of(versions["redis"], str).split(".")[0])
    _of(manifest["host"], str)
    if _count(manifest["made"]) >= LATEST:
        raise ValueError(f"{manifest['made']} is no time")
    check_contents(manifest["redis"])


def check_contents(contents: Any) -> None:
    """It is a count of databases and a digest. Raises ValueError."""
    try:
        for number, database in _of(_of(contents, dict)["databases"], dict).items():
            int(number)
            _count(_of(database, dict)["keys"])
            _count(database["expiring"])
        _of(contents["digest"], str)
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error


def _of(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if not 0 <= _of(value, int) < 2**53:
        raise ValueError(f"{value} is no number of something")
    return int(value)
