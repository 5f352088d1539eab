"""Managed by celery-pi. Runs the doctor and prints what it has found, for people and programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from celery_pi_checks.report import show
from celery_pi_checks.table import count, line

from celery_pi_doctor import MODULES
from celery_pi_doctor.act import Failed, do
from celery_pi_doctor.examination import examine
from celery_pi_doctor.look import Look
from celery_pi_doctor.registry import PROBLEMS, Outcome

ANSWERS = {
    "fixable": "--fix",
    "explained": "to do",
    "fixed": "done",
    "left": "tried",
}


def main(settings: dict[str, Any], fix: bool, for_programs: bool) -> int:
    """Exit status: 0 healthy, 1 there are problems, 2 something could not be looked at."""
    for name in MODULES:
        import_module(f"celery_pi_doctor.{name}")
    outcomes = examine(Look(settings), fix)
    if any(each.state == "fixed" for each in outcomes):
        forget_restarts(Look(settings))
    show(as_json(outcomes) if for_programs else as_text(outcomes))
    return status(outcomes)


def forget_restarts(look: Look) -> None:
    """What they were for has been repaired; else the next look would be told of them."""
    for name, unit in look.units.items():
        if unit["NRestarts"] != "0" and look.up(name):
            try:
                do("systemctl", "reset-failed", name)
            except Failed:
                continue  # the next look tells of them, which is no harm


def status(outcomes: Sequence[Outcome]) -> int:
    states = {each.state for each in outcomes}
    if states & {"fixable", "explained", "left"}:
        return 1
    return 2 if "unknown" in states else 0


def as_text(outcomes: Sequence[Outcome]) -> str:
    """A paragraph for each problem, and a line for all."""
    lines = []
    for each in outcomes:
        if each.state in ANSWERS:
            lines += [each.problem.name]
            lines += [f"  saw    {line(each.found.saw)}", f"  why    {line(each.found.why)}"]
            lines += [f"  {ANSWERS[each.state]:<5}  {line(each.found.will)}"]
            lines += [f"  but    {line(each.said)}"] if each.said else []
        elif each.state == "unknown":
            lines += [each.problem.name, f"  could not be looked for: {line(each.said)}"]
    return "\n".join([*lines, verdict(outcomes)])


def verdict(outcomes: Sequence[Outcome]) -> str:
    """One line for all."""
    of = {state: sum(each.state == state for each in outcomes) for state in (*ANSWERS, "behind")}
    there = of["fixable"] + of["explained"] + of["left"]
    said = [f"{count(there, 'problem')}" if there else "no problem"]
    said += [f"{of['fixed']} repaired"] if of["fixed"] else []
    said += [f"celery-pi doctor --fix repairs {of['fixable']}"] if of["fixable"] else []
    said += [f"{of['behind']} more not looked for meanwhile"] if of["behind"] else []
    return f"{'; '.join(said)} (of {len(PROBLEMS)} that are known)"


def as_json(outcomes: Sequence[Outcome]) -> str:
    """The same for programs."""
    problems = [
        {
            **{"section": each.problem.section, "name": each.problem.name, "state": each.state},
            **{"saw": each.found.saw, "why": each.found.why, "will": each.found.will},
            "said": each.said,
        }
        for each in outcomes
        if each.state in ANSWERS
    ]
    others = {
        state: {each.problem.name: each.said for each in outcomes if each.state == state}
        for state in ("unknown", "behind")
    }
    healthy = status(outcomes) == 0
    return json.dumps({"healthy": healthy, "problems": problems, **others}, indent=2)
