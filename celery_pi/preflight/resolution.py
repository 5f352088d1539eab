"""Whether pip can bring the app's packages and ours together, asked before anything is installed.

It is asked with the words of the installation, as who will install, and only where that has
something to do. On a machine without pip, only the owner's files are compared with our pins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pyinfra.api import StringCommand

from celery_pi import on_the_pi
from celery_pi.app_packages import Locked
from celery_pi.operations.python_packages import (
    PACKAGES,
    PIP_WORDS,
    Environment,
    arguments,
    is_installed,
    names_of,
    record,
)
from celery_pi.preflight.requirements import (
    Contradiction,
    contradictions,
    named,
    pinned,
    with_the_owners_versions,
)
from celery_pi.privileges import privileged
from celery_pi.shell import script

if TYPE_CHECKING:
    from celery_pi.preflight.ask import Ask

RESOLVING = (
    900  # seconds: what comes without a wheel has to be built before its requirements are known
)
WHERE = "group_data/all.py"

COLLECT = on_the_pi.program("requirement_files")

RESOLVE = PACKAGES + script("pip_resolve")


class Resolution(NamedTuple):
    """The owner's requirement files by path; whether pip was there, what it has ended with, and
    its output."""

    files: dict[str, str]
    has_pip: bool
    is_good: bool
    output: list[str]


def resolution(lines: Sequence[str]) -> Resolution:
    """What the script has printed."""
    files = json.loads(lines[0])
    word, _, status = lines[1].partition(" ")
    assert word == "pip"
    return Resolution(files, status != "none", status in ("0", "none"), list(lines[2:]))


def resolve_command(
    venv: str,
    words: Sequence[str],
    requirements: str,
    locked: Sequence[Locked],
) -> StringCommand:
    """Command that asks pip for these words."""
    script = f"words={PIP_WORDS!r}\n{RESOLVE}"
    shell = ("sh", "-c", script, "sh", venv, record(venv))
    return privileged(
        "own",
        venv,
        str(RESOLVING),
        *("--by", requirements),
        *shell,
        *(COLLECT, requirements, names_of(locked)),
        *words,
    )


def resolution_problems(
    ask: Ask,
    now: Environment,
    venv: str,
    pins: Sequence[str],
    requirements: str,
    locked: Sequence[Locked],
) -> Iterator[str]:
    """A sentence when the installation would fail; nothing is asked where it has nothing to do."""
    if is_installed(pins, now):
        return
    first = resolution(
        ask(resolve_command(venv, arguments(pins, requirements, now), requirements, locked))
    )
    conflicts = contradictions(pins, first.files)
    if first.is_good and not conflicts:
        return
    proposed = with_the_owners_versions(pins, first.files)
    retry: Resolution | None = None
    if first.has_pip:
        # The owner's versions and ours beside them; else whatever goes with the owner's.
        for tried in (proposed, [named(Requirement(pin)) for pin in pins]):
            words = arguments(tried, requirements, now)
            retry = resolution(ask(resolve_command(venv, words, requirements, ())))
            proposed = chosen(pins, retry, now) if retry.is_good else []
            if proposed:
                break
    why = contradicted(conflicts) or reason(first.output)
    if proposed and proposed != list(pins):
        listed = ", ".join(f'"{pin}"' for pin in proposed)
        yield f"{why}: set app_pins = ({listed}) in {WHERE}"
    else:
        besides = (
            f"; and whatever the pins are, {reason(retry.output)}" if conflicts and retry else ""
        )
        yield f"pip finds no set of packages for the app: {why}{besides}; change {requirements}"


def contradicted(conflicts: Sequence[Contradiction]) -> str:
    """What each file asks for that the pins do not allow."""
    parts = []
    for file in dict.fromkeys(line.file for _, line in conflicts):
        conflicts_here = [(pin, line) for pin, line in conflicts if line.file == file]
        required = ", ".join(
            f"{line.requirement} (line {line.number})" for _, line in conflicts_here
        )
        pinned_versions = ", ".join(dict.fromkeys(str(pin) for pin, _ in conflicts_here))
        parts.append(f"{file} asks for {required}, where app_pins has {pinned_versions}")
    return "; ".join(parts)


def chosen(pins: Sequence[str], result: Resolution, now: Environment) -> list[str]:
    """The pins in the versions that pip has found to go with the owner's requirements."""
    versions = {package.name: str(package.version) for package in now.installed if package.version}
    for line in result.output:
        if line.startswith("Would install "):
            for word in line.split()[2:]:
                name, _, version = word.rpartition("-")
                versions[canonicalize_name(name)] = version
    return [pinned(pin, versions.get(canonicalize_name(Requirement(pin).name), "")) for pin in pins]


def reason(output: Sequence[str]) -> str:
    """pip's error, in one line."""
    causes = list(output)
    if "The conflict is caused by:" in causes:
        block = causes[causes.index("The conflict is caused by:") + 1 :]
        return "; ".join(line.strip() for line in _until_empty(block))
    if any("NewConnectionError" in line or "Retrying (" in line for line in output):
        return "it does not reach the package index"
    errors = [line.removeprefix("ERROR: ").strip() for line in output if "ERROR: " in line]
    return "; ".join(errors[:2]) or (output[-1].strip() if output else "it ends without a word")


def _until_empty(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if not line.strip():
            return
        yield line
