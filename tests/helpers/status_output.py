"""`celery-pi status` and `audit` on a machine, as a program and as a person read them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from tests.virtual_pi import VirtualPi

# What has failed in another test is no concern of the next.
CALM = ("systemctl", "reset-failed")


@dataclass(frozen=True)
class Told:
    """Exit status, seconds, and each check by its name: of a name that occurs twice, both."""

    status: int
    seconds: float
    checks: list[dict[str, Any]]

    def names(self, *states: str) -> set[str]:
        """Of the checks that are in one of those states."""
        return {each["name"] for each in self.checks if each["state"] in states}

    def __getitem__(self, name: str) -> Any:
        """What the first check of that name found, for programs."""
        return next(each["values"] for each in self.checks if each["name"] == name)


@dataclass(frozen=True)
class Shown:
    """Exit status, and what a person sees."""

    status: int
    text: str


def ask(pi: VirtualPi, command: str = "status") -> Told:
    """What a program is told. Nothing may be wrong without a reason and a remedy."""
    start = time.monotonic()
    done = _run(pi, command, "--json")
    seconds = time.monotonic() - start
    told = json.loads(done.stdout)
    assert told["well"] is (done.returncode == 0)
    for each in told["checks"]:
        assert each["evidence"]
        assert bool(each["remedy"]) is (each["state"] != "ok"), each
    return Told(done.returncode, seconds, told["checks"])


def table(pi: VirtualPi, command: str = "status") -> Shown:
    done = _run(pi, command)
    return Shown(done.returncode, done.stdout)


def names(text: str) -> set[str]:
    """Names of the checks in a table."""
    return set(re.findall(r"^  (?:     |warn |WRONG)  (\S.*?)  +(?!-> )\S", text, re.MULTILINE))


def _run(pi: VirtualPi, *words: str) -> subprocess.CompletedProcess[str]:
    """No traceback, and no secret, whatever the machine is like."""
    done = pi.run("celery-pi", *words, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    assert not [secret for secret in secrets_of(pi) if secret in done.stdout]
    return done


def secrets_of(pi: VirtualPi) -> list[str]:
    """Every stored password."""
    listed = pi.run("sh", "-c", "grep -h '' /etc/celery-pi/secrets/*").stdout.splitlines()
    assert listed
    return [
        line.removeprefix("flower:") for line in listed if len(line) >= 32
    ]  # a test's are short


def reason(pi: VirtualPi, unit: str) -> str:
    """Why the unit was started last, as `celery-pi status` has it."""
    return str(ask(pi)["Last restart"][unit.replace("-", "_")])
