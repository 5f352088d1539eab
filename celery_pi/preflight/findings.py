"""What preflight has found."""

from __future__ import annotations

from typing import NamedTuple


class Findings(NamedTuple):
    """A sentence for each thing: `problems` keep us from deploying, `warnings` do not."""

    problems: list[str]
    warnings: list[str]
