"""State that a script on the target keeps, by a timer of its own and at each deploy."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.operations.config_files import ConfigFile
from celery_pi.plan import details


class PendingChanges(FactBase[list[str]]):
    """What a shell script would do, as its `--check` prints it: a line each.

    The text itself is run and not what lies on the target, so that a plan is right also
    before the script, or a new version of it, is there.
    """

    default = list

    def command(self, script: str, text: str) -> StringCommand:
        return StringCommand("sh -c", QuoteString(text), QuoteString(script), "--check")

    def process(self, output: list[str]) -> list[str]:
        return output


@operation()
def reconcile_script(script: ConfigFile) -> Generator[StringCommand]:
    """The script, which is in place by now, finds nothing to mend."""
    reasons = host.get_fact(PendingChanges, script=script.path, text=script.content)
    if not reasons:
        host.noop(f"{script.path} has nothing to do")
        return
    if state.config.DIFF:
        for reason in reasons:
            details(host, f"Will run {script.path}: {reason}")
    yield StringCommand(QuoteString(script.path))
