"""Compile all filters as fail2ban's server does: its own test does not, and the server would end.

Standard input is what `fail2ban-client -d` prints; of it, what is no command is printed again. Ends
with status 1 and a sentence for a jail whose filter does not compile.
"""

from __future__ import annotations

import ast
import sys
from typing import Any

from fail2ban.server.filter import Filter


def main() -> None:
    filters: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            command = ast.literal_eval(line)
        except (SyntaxError, ValueError):
            print(line.rstrip())
            continue
        if command[0] not in ("set", "multi-set") or len(command) < 4:
            continue
        jail, setting, value = command[1:4]
        values = value if command[0] == "multi-set" else [value]
        try:
            compile_filter(filters.setdefault(jail, Filter(None)), setting, value, values)
        except Exception as error:
            sys.exit(f"jail {jail}: {error}")


def compile_filter(of_jail: Any, setting: str, value: Any, values: list[str]) -> None:
    """Set one of its settings; raises whatever fail2ban raises."""
    if setting == "maxlines":
        of_jail.setMaxLines(value)
    elif setting == "prefregex":
        of_jail.prefRegex = value
    elif setting in ("addfailregex", "addignoreregex"):
        add = of_jail.addFailRegex if setting == "addfailregex" else of_jail.addIgnoreRegex
        for regex in values:
            add(regex)


if __name__ == "__main__":
    main()
