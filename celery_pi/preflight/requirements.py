"""The owner's requirement files as text, and which of their lines contradict our pins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


class Line(NamedTuple):
    """A line that requires something: its file, its number, and its requirement."""

    file: str
    number: int
    requirement: Requirement


class Contradiction(NamedTuple):
    """A pin of ours, and a line that does not allow that version."""

    pin: Requirement
    line: Line


def required(files: Mapping[str, str]) -> Iterator[Line]:
    """Each plain requirement: what is an option, an address or a mistake, and what
    only counts for some Pythons, pip knows better."""
    for file, text in files.items():
        number, begun = 0, ""
        for count, raw in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
            number = number if begun else count
            begun += re.sub(r"(^|\s)#.*", "", raw)
            if raw.endswith("\\"):
                begun = begun.removesuffix("\\")
                continue
            words, begun = begun.partition(" --")[0].strip(), ""
            try:
                requirement = Requirement(words)
            except InvalidRequirement:
                continue
            if not requirement.marker and not requirement.url:
                yield Line(file, number, requirement)


def contradictions(pins: Sequence[str], files: Mapping[str, str]) -> list[Contradiction]:
    """Every line that no version can fulfil beside a pin of ours."""
    pinned = {canonicalize_name(pin.name): pin for pin in map(Requirement, pins)}
    return [
        Contradiction(pinned[name], line)
        for line in required(files)
        if (name := canonicalize_name(line.requirement.name)) in pinned
        and not line.requirement.specifier.contains(_version(pinned[name]), prereleases=True)
    ]


def with_the_owners_versions(pins: Sequence[str], files: Mapping[str, str]) -> list[str]:
    """The pins, each in the exact version that the owner's files name, where they name one."""
    exact = {
        canonicalize_name(line.requirement.name): specifier.version
        for line in required(files)
        for specifier in line.requirement.specifier
        if specifier.operator == "==" and "*" not in specifier.version
    }
    return [pinned(pin, exact.get(canonicalize_name(Requirement(pin).name), "")) for pin in pins]


def pinned(pin: str, version: str) -> str:
    """The pin with another version, its extras kept; without one as it was."""
    requirement = Requirement(pin)
    return f"{named(requirement)}=={version}" if version else pin


def named(requirement: Requirement) -> str:
    """Its name and extras, without a version."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}"


def _version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    return Version(specifier.version)
