"""Whether the worker will be guarded, told before pip runs: the worker itself decides at its start.

The rule and its sentences are the guard's (`celery_redis_guard.mode`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from celery_redis_guard.mode import NAMES, decide
from celery_redis_guard.tested_sets import PackageSet

HINT = "docs/operate/upgrade.md, Upgrading Celery"


def warning(
    choice: str, pins: Sequence[str], installed: Mapping[str, str], locked: Mapping[str, str]
) -> str:
    """A sentence if the worker will be plain, or guarded with versions that were not tested; empty
    if it will be guarded by a tested set. `installed` and `locked` are versions by name."""
    versions = {**locked, **installed, **dict(map(_pinned, pins))}
    missing = [name for name in NAMES if name not in versions]
    if missing and choice == "auto":
        names = " and ".join(missing)
        return (
            f"pip chooses {names}, so the worker decides when it starts whether it is guarded; "
            f"celery-pi status tells it ({HINT})"
        )
    mode = decide(choice, PackageSet(*(versions.get(name, "of any version") for name in NAMES)))
    if mode.sentence.startswith("guarded: "):
        return ""
    return f"the worker will be {mode.sentence} ({HINT})"


def _pinned(pin: str) -> tuple[str, str]:
    requirement = Requirement(pin)
    (specifier,) = requirement.specifier
    return canonicalize_name(requirement.name), specifier.version
