"""`make sets`: the whole suite of celery-redis-guard on each of its tested sets of versions.

One line a set, and the status is 1 if one of them has failed. The newest versions of the package
index (`--newest`) are told and change no status. Environments are kept in the cache directory, made
by pip with the Python of the project, or with another (`--python`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from runpy import run_path
from typing import NamedTuple
from xml.etree import ElementTree

from celery_pi.render import ROOT
from tests.virtual_pi.rootfs import cache_directory

PACKAGE = ROOT / "packages/celery-redis-guard"
TESTED_SETS = run_path(str(PACKAGE / "src/celery_redis_guard/tested_sets.py"))["TESTED_SETS"]
DEFAULT_FLOWER = "2.2.0"
FLOWER = {"A": "2.0.0", "Observations Nids": "2.0.1"}  # no part of a set: it runs by itself
NEWEST = "newest"
TIMEOUT = 3600  # seconds that a suite may take


class Outcome(NamedTuple):
    """What a suite has come to; `failed` are names of tests."""

    versions: str
    passed: int
    failed: tuple[str, ...]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.package_sets", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SET", help=f"of {', '.join(TESTED_SETS)}")
    parser.add_argument("--newest", action="store_true", help="also the newest of the index")
    parser.add_argument("--python", default=sys.executable, help="the program to make them with")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(TESTED_SETS):
        parser.error(f"no tested set: {', '.join(sorted(unknown))}")
    print(f"{_said(given.python, '--version')}, {_redis()}", flush=True)
    outcomes = [told(name, given.python) for name in given.names or TESTED_SETS]
    if given.newest:
        told(NEWEST, given.python)
    return int(any(outcome.failed for outcome in outcomes))


def told(name: str, python: str) -> Outcome:
    """The outcome of that set, which is printed."""
    try:
        outcome = run_suite(environment(name, python))
    except (subprocess.SubprocessError, OSError) as error:
        outcome = Outcome("", 0, (f"it does not run: {error}",))
    line = f"{name}: {outcome.versions}: {outcome.passed} passed, {len(outcome.failed)} failed"
    print("\n  ".join([line, *outcome.failed]), flush=True)
    return outcome


def pins(name: str) -> list[str]:
    """What pip is asked for. kombu 5.7 imports packaging and does not ask for it."""
    others = ["packaging", f"pytest=={version('pytest')}"]
    if name == NEWEST:
        return ["celery", "kombu", "billiard", "redis", "flower", *others]
    packages = [f"{package}=={pin}" for package, pin in TESTED_SETS[name]._asdict().items()]
    return [*packages, f"flower=={FLOWER.get(name, DEFAULT_FLOWER)}", *others]


def environment(name: str, python: str) -> Path:
    """The Python of an environment with that set."""
    return environment_of(pins(name), python, is_kept=name != NEWEST)


def environment_of(wanted: Sequence[str], python: str, *, is_kept: bool = True) -> Path:
    """The Python of an environment with these packages, made anew unless it may be kept."""
    version = _said(python, "-c", "import sys; print(sys.version, sys.executable)")
    digest = sha256(repr([version, *wanted]).encode()).hexdigest()[:12]
    directory = cache_directory() / "sets" / digest
    own, complete = directory / "bin/python", directory / "complete"
    if not (is_kept and complete.exists()):
        subprocess.run([python, "-m", "venv", "--clear", directory], check=True)
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([own, "-m", "pip", "install", *quiet, *wanted], check=True)
        complete.touch()
    return own


def run_suite(python: Path) -> Outcome:
    """The whole suite, with that Python."""
    report = python.parent.parent / "report.xml"
    report.unlink(missing_ok=True)
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", PACKAGE)
    subprocess.run(
        [python, *words, f"--junit-xml={report}", PACKAGE / "tests"],
        cwd=PACKAGE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=TIMEOUT,
    )
    cases = ElementTree.parse(report).getroot().iter("testcase")
    verdicts = {
        f"{case.get('classname')}::{case.get('name')}": {kind.tag for kind in case}
        for case in cases
    }
    failed = [name for name, kinds in verdicts.items() if kinds & {"failure", "error"}]
    passed = sum(not kinds & {"failure", "error", "skipped"} for kinds in verdicts.values())
    return Outcome(_versions(python), passed, tuple(failed))


def _versions(python: Path) -> str:
    names = ("celery", "kombu", "billiard", "redis", "flower")
    code = f"from importlib.metadata import version as v; print(*map(v, {names!r}))"
    versions = _said(str(python), "-c", code).split()
    return ", ".join(" ".join(pair) for pair in zip(names, versions, strict=True))


def _redis() -> str:
    return f"Redis {_said('redis-server', '--version').partition('v=')[2].split()[0]}"


def _said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
