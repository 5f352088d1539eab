"""Something is killed at each step of each canvas: ours, and plain Celery beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.faults.table import replace
from tests.helpers.harness import ROOT

TESTS = ROOT / "packages/celery-redis-guard/tests"
PAGE = "docs/faults.md"

Outcomes = list[dict[str, Any]]


def measure(*options: str) -> Outcomes:
    """What each kill has cost, by the driver's own program."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "outcomes.json")
        driver = [sys.executable, str(TESTS / "kill_at_every_step.py"), "--json", str(file)]
        done = subprocess.run([*driver, *options], check=False)
        if not file.exists():
            raise RuntimeError(f"the driver ended with status {done.returncode}")
        outcomes: Outcomes = json.loads(file.read_text())
        return outcomes


def write(ours: Outcomes, plain: Outcomes) -> None:
    """Put the figures into docs/faults.md."""
    head = "canvas", "kills", "lost", "hang", "ran twice", "kills", "lost", "hang", "ran twice"
    canvases = list(dict.fromkeys(outcome["canvas"] for outcome in ours))
    rows: list[list[str]] = [[name, *_sums(ours, name), *_sums(plain, name)] for name in canvases]
    rows.append(["**all**", *_sums(ours), *_sums(plain)])
    replace(PAGE, "steps", _table(head, rows))
    words = ("killed", "after the step", "kills", "ran twice", "why")
    replace(PAGE, "twice", _table(words, _twice(ours)))


def _sums(outcomes: Outcomes, canvas: str | None = None) -> list[str]:
    """Kills; tasks that never ended; canvases whose result never came; tasks that ended again."""
    chosen = [outcome for outcome in outcomes if canvas in (None, outcome["canvas"])]
    if not chosen:
        return ["–"] * 4  # noqa: RUF001
    return [
        str(len(chosen)),
        *(str(sum(o[key] for o in chosen)) for key in ("lost", "hung", "twice")),
    ]


def _twice(outcomes: Outcomes) -> list[list[str]]:
    """Which kills have cost that a task ran twice, and why."""
    found: dict[tuple[str, str], Outcomes] = {}
    for outcome in outcomes:
        found.setdefault((outcome["target"], outcome["step"]), []).append(outcome)
    return [
        [*names, str(len(of)), str(sum(o["twice"] for o in of)), of[0]["why"] or "**no reason**"]
        for names, of in found.items()
        if any(o["twice"] for o in of)
    ]


def too_bad(outcomes: Outcomes) -> Outcomes:
    """Those of ours in which something was lost, hangs, or ran twice without a reason."""
    return [o for o in outcomes if o["lost"] or o["hung"] or (o["twice"] and not o["why"])]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
