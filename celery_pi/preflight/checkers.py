"""The owner's own configurations, as their daemons find them; checked again only when one of them
has changed since a deploy that found them good.

They are to be good without us: what is wrong in a file of ours, the deploy mends. So where a
checker refuses, it looks again with our files empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyinfra.api import FactBase, StringCommand

from celery_pi import on_the_pi
from celery_pi.preflight.findings import Findings
from celery_pi.render import from_template
from celery_pi.settings import Settings
from celery_pi.shell import assign, script

STAMP = "/var/lib/celery-pi/checked"
ROTATION = "/etc/logrotate.d/celery-pi"
CHECKED_PATHS = (
    *("/etc/nginx", "/etc/apache2", "/etc/fail2ban", "/etc/logrotate.d", "/etc/logrotate.conf"),
    *("/etc/ssh", "/etc/sudoers", "/etc/sudoers.d"),
    *("/usr/sbin/nginx", "/usr/sbin/apache2", "/usr/bin/fail2ban-server", "/usr/sbin/logrotate"),
    *("/usr/sbin/sshd", "/usr/sbin/sudo"),
)
PATIENCE = 60  # seconds for each checker; an emulated fail2ban needs ten
LINES = 20  # of a checker's output

FAIL2BAN = on_the_pi.program("fail2ban_filters")

LISTING = script("owners_checks_digest")
CHECK = script("owners_checks")
NOTE = script("owners_checks_note")

BY_SETTING = {"nginx": "flower", "fail2ban": "bans"}  # which daemon is started again for which
NAMES = {"sudo": "sudo", "apache2": "Apache", "sshd": "sshd"}
CLOCK = re.compile(r"^[0-9/]{10} [0-9:]{8} |[0-9]+#[0-9]+: |^[0-9-]{10} [0-9:,]+ ")
DUPLICATE = re.compile(r"duplicate log entry for (\S+)")


@dataclass(frozen=True)
class Checks:
    """Each refusing checker's output; which of the owner's files name which logs. `good`
    when nothing has changed since all was good: nothing was looked at then."""

    complaints: dict[str, list[str]]
    names: tuple[tuple[str, str], ...] = ()
    good: bool = False


class OwnersChecks(FactBase[Checks]):
    """All checkers, in one command."""

    def command(self, candidate: str, aside: Sequence[str] = ()) -> StringCommand:
        words = assign(
            aside=" ".join(aside),
            fail2ban=FAIL2BAN,
            patience=str(PATIENCE),
            most=str(LINES),
            rotation=ROTATION,
        )
        return StringCommand(_watched(candidate), words, LISTING, CHECK)

    def process(self, output: list[str]) -> Checks:
        lines_by_checker: dict[str, list[str]] = {}
        for name, _, rest in (line.partition(" ") for line in output):
            lines_by_checker.setdefault(name, []).append(rest)
        rotated = (
            text.replace('"', "").partition(" ") for text in lines_by_checker.pop("names", [])
        )
        is_good = "good" in lines_by_checker
        for word in ("good", "checked"):
            lines_by_checker.pop(word, None)
        return Checks(
            lines_by_checker,
            tuple((file, path) for file, _, paths in rotated for path in paths.split()),
            is_good,
        )

    @staticmethod
    def default() -> Checks:
        return Checks({})


def rotation(settings: Settings) -> str:
    """Our file for logrotate, as the deploy will have it."""
    return from_template(ROTATION, settings=settings).content


def noted(settings: Settings) -> StringCommand:
    """Command that remembers that all is good as it is now, our own files among it."""
    return StringCommand(_watched(rotation(settings)), LISTING, NOTE)


def _watched(candidate: str) -> StringCommand:
    return assign(stamp=STAMP, paths=" ".join(CHECKED_PATHS), candidate=candidate)


def checks_found(checks: Checks, settings: Settings) -> Findings:
    """A sentence for each daemon whose configuration is not good: a refusal where the deploy would
    start it again, else a warning."""
    problems, warnings = [], []
    for name, lines in checks.complaints.items():
        if name == "logrotate":
            warnings += [
                f"logrotate has an error of its own each night: {line}"
                for line in lines
                if not _is_ours(line, settings)
            ]
            continue
        why = _reason(lines)
        setting = BY_SETTING.get(name)
        if setting and getattr(settings, setting):
            problems.append(
                f"{name} would not start again with its own configuration ({why}): mend it, or "
                f"set {setting} = False"
            )
        elif f"{name}.service" in (settings.app_units or ()):
            problems.append(
                f"{name} would not start again with its own configuration ({why}), and app_units "
                "names it: mend it"
            )
        else:
            warnings.append(f"{NAMES.get(name, name)} finds its own configuration wrong: {why}")
    problems += _doubled(checks, settings)
    return Findings(problems, warnings)


def _reason(output: Sequence[str]) -> str:
    """The lines that say what is wrong, without what leads to them."""
    lines = [" ".join(CLOCK.sub("", line).split()) for line in output if line.strip()]
    wrong = [
        line
        for line in lines
        if re.search(r"emerg|error|syntax|invalid|unknown|bad |jail |does not end", line, re.I)
        and "parsed OK" not in line
    ]
    return "; ".join((wrong or lines)[:3]) or "without a word"


def _is_ours(line: str, settings: Settings) -> bool:
    duplicate = DUPLICATE.search(line)
    is_skipped = "found error in" in line
    return is_skipped or bool(duplicate and _rotated_by_us(duplicate[1], settings))


def _rotated_by_us(path: str, settings: Settings) -> bool:
    return PurePosixPath(path).match(f"{settings.app_dir}/logs/*.log")


def _doubled(checks: Checks, settings: Settings) -> Iterator[str]:
    """A sentence for each file of the owner's that rotates what ours does: to logrotate that is an
    error, as soon as there is such a log."""
    lines = checks.complaints.get("logrotate", [])
    doubled = {match[1] for line in lines if (match := DUPLICATE.search(line))}
    ours = [path for path in doubled if _rotated_by_us(path, settings)]
    ours.append(f"{settings.app_dir}/logs/celery.log")  # as soon as there is one
    by_file: dict[str, list[str]] = {}
    for file, path in checks.names:
        if _rotated_by_us(path, settings) or any(PurePosixPath(one).match(path) for one in ours):
            by_file.setdefault(file, []).append(path)
    for file, paths in by_file.items():
        yield (
            f"{file} rotates {', '.join(paths)}, which our {ROTATION} does too, and logrotate "
            "would fail each night: remove that entry, or set replace_handmade = True"
        )
