"""Managed by celery-pi. Runs the doctor and prints what it has found, for people and programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from celery_pi_tools import checks
from celery_pi_tools.checks.registry import of_view
from celery_pi_tools.checks.report import show
from celery_pi_tools.commands import execute
from celery_pi_tools.doctor.examination import Outcome, examine
from celery_pi_tools.privileges import Failed
from celery_pi_tools.system import System
from celery_pi_tools.table import count, line

ANSWERS = {
    "fixable": "--fix",
    "manual": "to do",
    "fixed": "done",
    "unresolved": "tried",
}
# `--json` keeps the words that programs of owners know.
JSON_STATES = {"manual": "explained", "unresolved": "left"}


def main(settings: dict[str, Any], fix: bool, for_programs: bool) -> int:
    """Exit status: 0 healthy, 1 there are problems, 2 something could not be looked at."""
    checks.load()
    outcomes = examine(System(settings), fix)
    if any(each.state == "fixed" for each in outcomes):
        forget_restarts(System(settings))
    show(as_json(outcomes) if for_programs else as_text(outcomes))
    return status(outcomes)


def forget_restarts(system: System) -> None:
    """Resets the counters of restarts, whose cause was repaired: the next run would report them."""
    for name, unit in system.units.items():
        if unit["NRestarts"] != "0" and system.up(name):
            try:
                execute("systemctl", "reset-failed", name)
            except Failed:
                continue  # the next run reports them, which is harmless


def status(outcomes: Sequence[Outcome]) -> int:
    states = {each.state for each in outcomes}
    if states & {"fixable", "manual", "unresolved"}:
        return 1
    return 2 if "unknown" in states else 0


def as_text(outcomes: Sequence[Outcome]) -> str:
    """A paragraph for each problem, and a line for all."""
    lines = []
    for each in outcomes:
        if each.state in ANSWERS:
            lines += [each.check.name]
            lines += [
                f"  saw    {line(each.finding.evidence)}",
                f"  why    {line(each.finding.impact)}",
            ]
            lines += [f"  {ANSWERS[each.state]:<5}  {line(each.finding.remedy)}"]
            lines += [f"  but    {line(each.reason)}"] if each.reason else []
        elif each.state == "unknown":
            lines += [each.check.name, f"  could not be looked for: {line(each.reason)}"]
    return "\n".join([*lines, verdict(outcomes)])


def verdict(outcomes: Sequence[Outcome]) -> str:
    """A summary in one line."""
    states = [each.state for each in outcomes]
    of = {state: states.count(state) for state in (*ANSWERS, "suppressed")}
    there = of["fixable"] + of["manual"] + of["unresolved"]
    parts = [f"{count(there, 'problem')}" if there else "no problem"]
    parts += [f"{of['fixed']} repaired"] if of["fixed"] else []
    parts += [f"celery-pi doctor --fix repairs {of['fixable']}"] if of["fixable"] else []
    parts += [f"{of['suppressed']} more not looked for meanwhile"] if of["suppressed"] else []
    return f"{'; '.join(parts)} (of {len(of_view('doctor'))} that are known)"


def as_json(outcomes: Sequence[Outcome]) -> str:
    """The same for programs."""
    problems = [
        {
            **{"section": each.check.section, "name": each.check.name},
            "state": JSON_STATES.get(each.state, each.state),
            **{
                "saw": each.finding.evidence,
                "why": each.finding.impact,
                "will": each.finding.remedy,
            },
            "said": each.reason,
        }
        for each in outcomes
        if each.state in ANSWERS
    ]
    others = {
        word: {each.check.name: each.reason for each in outcomes if each.state == state}
        for word, state in (("unknown", "unknown"), ("behind", "suppressed"))
    }
    healthy = status(outcomes) == 0
    return json.dumps({"healthy": healthy, "problems": problems, **others}, indent=2)
