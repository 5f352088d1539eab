"""What a look at the machine has found."""

from __future__ import annotations

from typing import NamedTuple


class Findings(NamedTuple):
    """A sentence for each thing: `problems` keep us from deploying; `told` is said, and no more."""

    problems: list[str]
    told: list[str]
