"""The app's packages that are ours, each at one version and with the digest of every wheel of it.

They are those that `app_pins` names and what these need, but for Django, which is the owner's.
After a change of the pins, or for newer versions, write `app_packages.lock` anew and run the tests:

    python -m celery_pi.app_packages
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from celery_pi.settings import Settings

FILE = Path(__file__).with_name("app_packages.lock")
HEAD = "# Written by `python -m celery_pi.app_packages`: what is ours in the app's environment.\n"
OWNERS_PACKAGE = "django"  # and what only it needs
PYTHONS = ("3.11", "3.13")  # of Debian 12 and 13
GLIBCS = (17, 26, 27, 28, 31, 34, 35, 36)  # 2.36 is Debian 12's
MACHINES = ("aarch64", "x86_64")
# What one Python needs and the one that resolves does not: redis does on Debian 12's 3.11.2.
CONDITIONAL = {"async-timeout": 'python_full_version < "3.11.3"'}
UNDECLARED = ("packaging",)  # kombu imports it, and requires it for an extra alone


class Locked(NamedTuple):
    """A package: its name as pip compares it, its version, and its line for pip."""

    name: str
    version: Version
    line: str


@cache
def locked() -> tuple[Locked, ...]:
    """All of them."""
    lines = FILE.read_text(encoding="ascii").splitlines()
    return tuple(_locked(line) for line in lines if line and not line.startswith("#"))


def _locked(line: str) -> Locked:
    requirement = Requirement(line.partition(" --hash=")[0])
    (specifier,) = requirement.specifier
    return Locked(canonicalize_name(requirement.name), Version(specifier.version), line)


def to_install(
    packages: Iterable[Locked], installed: Mapping[str, Version | None], pinned: Collection[str]
) -> list[Locked]:
    """Those that are not installed; of the pinned ones, also those in another version. What the
    owner's requirements have brought in another version stays."""
    return [
        package
        for package in packages
        if package.name not in installed
        or (package.name in pinned and installed[package.name] != package.version)
    ]


def main() -> None:
    """Write the lock: pip chooses the versions, and for each machine the wheel."""
    pins = [*Settings.model_fields["app_pins"].default, *CONDITIONAL, *UNDECLARED]
    reports = [_resolved(pins, python, machine) for python in PYTHONS for machine in MACHINES]
    names = _names_of_ours(reports[0], pins)
    hashes: dict[str, set[str]] = {name: set() for name in names}
    for report in reports:
        for name in names:
            if report[name]["metadata"]["version"] != reports[0][name]["metadata"]["version"]:
                raise SystemExit(f"{name} has one version for one machine and one for another")
            hashes[name].add(report[name]["download_info"]["archive_info"]["hashes"]["sha256"])
    lines = (_line(name, reports[0][name]["metadata"]["version"], hashes[name]) for name in names)
    FILE.write_text(HEAD + "".join(f"{line}\n" for line in lines), encoding="ascii")


def _line(name: str, version: str, hashes: Iterable[str]) -> str:
    marker = f" ; {CONDITIONAL[name]}" if name in CONDITIONAL else ""
    return " ".join([f"{name}=={version}{marker}", *(f"--hash=sha256:{h}" for h in sorted(hashes))])


def _resolved(pins: Iterable[str], python: str, machine: str) -> dict[str, Any]:
    """What pip would install on that machine, by name."""
    platforms = ["any", f"manylinux2014_{machine}"]
    platforms += [f"manylinux_2_{minor}_{machine}" for minor in GLIBCS]
    chosen = [word for platform in platforms for word in ("--platform", platform)]
    with TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--dry-run", "--ignore-installed", "--target", scratch, "--report", report),
                *("--only-binary", ":all:", "--python-version", python, *chosen, *pins),
            ],
            check=True,
        )
        packages = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(package["metadata"]["name"]): package for package in packages}


def _names_of_ours(report: Mapping[str, Any], pins: Iterable[str]) -> list[str]:
    """Names of the pinned packages and of all that these need, without the owner's."""
    names: set[str] = set()
    pending: list[str] = [canonicalize_name(Requirement(pin).name) for pin in pins]
    while pending:
        name = pending.pop()
        if name not in names and name != OWNERS_PACKAGE:
            names.add(name)
            pending += _needed(report[name]["metadata"].get("requires_dist", ()))
    return sorted(names)


def _needed(requirements: Iterable[str]) -> Iterator[str]:
    for requirement in map(Requirement, requirements):
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


if __name__ == "__main__":
    main()
