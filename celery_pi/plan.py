"""What a deploy does to the owner's things, in a few lines, before the first change.

Operations note it while they are planned (`will`), and the lines of a diff too (`details`), so
that `show` can put the few lines first. A file that is new and wholly ours, or of
our own library, is counted; `make plan FULL=1` shows it too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import TYPE_CHECKING, Literal, cast, get_args

from pyinfra import host as current_host
from pyinfra import logger
from pyinfra.api import BaseStateCallback

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

Verb = Literal[
    "install",
    "remove",
    "stop",
    "restart",
    "reload",
    "start",
    "open",
    "close",
    "change",
    "replace",
    "put aside",
]
VERBS: tuple[Verb, ...] = get_args(Verb)  # in the order of the lines
# What the plan marks, if the thing is the owner's.
TOUCHING: tuple[Verb, ...] = ("remove", "stop", "restart", "replace", "put aside")
UNTOUCHED = "Nothing of yours is removed, stopped, started again, replaced or put aside."
NEVER_CUT = (*TOUCHING, "open", "close")
KEEPING: tuple[Verb, ...] = ("replace", "put aside")  # after both, the owner has what he had

PLAN = "celery_pi_plan"
FULL = "CELERY_PI_FULL"
LIBRARY = ("/usr/local/lib/celery-pi/", "/usr/local/bin/celery-pi")
OF_THE_SYSTEM = ("systemd-", "apt-daily")  # begin the names of units that are nobody's work
MOST = 12  # things that a line names, where not each of them matters
WIDTH = 100


@dataclass
class Item:
    """A thing, a reason or remark, and whether it is the owner's own.

    The deploy's record has `recorded` where the plan has no reason.
    """

    what: str
    why: str
    is_owners: bool
    recorded: str = ""

    @property
    def text(self) -> str:
        return self._with(self.why)

    @property
    def record(self) -> str:
        return self._with(self.why or self.recorded)

    def _with(self, reason: str) -> str:
        note = ": ".join(word for word in ("yours" if self.is_owners else "", reason) if word)
        return f"{self.what} ({note})" if note else self.what


@dataclass
class Plan:
    """What is known so far of one run on one host."""

    items: dict[Verb, dict[str, Item]] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    """Paths of files of our own."""
    details: list[str] = field(default_factory=list)
    covered: set[str | None] = field(default_factory=set)
    """Operations of which the above has an entry."""
    also: list[str] = field(default_factory=list)
    """Names of the others that change something."""
    is_begun: bool = False
    is_shown: bool = False

    def add(self, verb: Verb, item: Item) -> None:
        self.items.setdefault(verb, {}).setdefault(item.what, item)

    @property
    def is_empty(self) -> bool:
        return not (self.items or self.counted or self.also)

    def lines(self, mood: str) -> list[str]:
        """The few lines; `mood` is `Would` or `Will`."""
        if self.is_empty:
            return [f"Nothing {mood.lower()} change."]
        named = ((verb, self._named(verb)) for verb in VERBS)
        rows = [(f"{mood} {verb}:", things) for verb, things in named if things]
        if self.also:
            rows.append((f"{mood} also:", self.also))
        return [*_table(rows), *([] if self._touches_owners else [UNTOUCHED])]

    def count(self, mood: str) -> str:
        """The line about our own files; empty where there are none."""
        if not self.counted:
            return ""
        files = "1 file" if len(self.counted) == 1 else f"{len(self.counted)} files"
        hint = " (make plan FULL=1 shows them)" if mood == "Would" and not is_full() else ""
        return f"and {files} of celery-pi's own{hint}"

    def _named(self, verb: Verb) -> list[str]:
        # What is the owner's comes first, so that it is never what is cut.
        items = sorted(self.of(verb), key=lambda item: not item.is_owners)
        texts = [item.text for item in items]
        least = sum(item.is_owners for item in items)
        most = len(texts) if verb in NEVER_CUT else max(MOST, least)
        return texts if len(texts) <= most + 1 else [*texts[:most], f"{len(texts) - most} more"]

    def of(self, verb: Verb) -> list[Item]:
        """The things; of one that is replaced or put aside, that verb is enough."""
        keeping_verbs = () if verb in KEEPING else KEEPING
        kept_things = {what for keeping in keeping_verbs for what in self.items.get(keeping, ())}
        return [item for item in self.items.get(verb, {}).values() if item.what not in kept_things]

    @property
    def _touches_owners(self) -> bool:
        return any(item.is_owners for verb in TOUCHING for item in self.of(verb))


def is_full() -> bool:
    """Whether the diffs of our own files are to be shown (FULL=1)."""
    return os.environ.get(FULL, "") not in ("", "0")


def begin(host: Host) -> None:
    """From here on lines of diffs wait for `show`."""
    _plan(host).is_begun = True
    if not any(isinstance(handler, Late) for handler in host.state.callback_handlers):
        host.state.add_callback_handler(Late())  # type: ignore[no-untyped-call]


def will(
    host: Host,
    verb: Verb,
    what: str,
    why: str = "",
    *,
    is_owners: bool | None = None,
    recorded: str = "",
) -> None:
    """Note, while planning, what this run does to a thing; never a secret.

    `why` stands behind it, in brackets, or `recorded` in the record alone. `is_owners` is whether
    it is the owner's own, as what is replaced and put aside always is.
    """
    if host.state.is_executing:
        return
    plan = _plan(host)
    is_owners_own = verb in ("replace", "put aside") if is_owners is None else is_owners
    plan.add(verb, Item(what, why, is_owners_own, recorded))
    plan.covered.add(host.current_op_hash)


def will_write(host: Host, path: str, is_new: bool) -> bool:
    """Note, while planning, that this run writes a file of ours; whether its diff is left out.

    Outside a deploy of ours none is.
    """
    own = is_new or path.startswith(LIBRARY)
    plan = _plan(host)
    if not host.state.is_executing:
        if own:
            plan.counted.add(path)
        elif path not in plan.items.get("replace", {}):
            plan.add("change", Item(path, "", is_owners=False))
        plan.covered.add(host.current_op_hash)
    return own and plan.is_begun and not is_full()


def details(host: Host, first: str, more: Iterable[str] = ()) -> None:
    """Log what belongs into a diff: behind the few lines while it is planned, at once while it
    is done."""
    lines = [f"{host.print_prefix}{first}", *(f"  {line}" for line in more)]
    plan = _plan(host)
    if plan.is_begun and not host.state.is_executing:
        plan.details += lines
        return
    for line in lines:
        logger.info(line)


def is_planned(host: Host) -> bool:
    """Whether this is the plan of a deploy of ours, for what costs time and is only shown."""
    return _plan(host).is_begun and not host.state.is_executing


def show() -> None:
    """Log what this run does to the present host: in `deploy.py`, behind all components.

    pyinfra plans nothing with `-y`, so each operation is planned here. An error in it then ends the
    run, as it does without `-y`, before anything is changed.
    """
    # The host itself, not pyinfra's `host`: what is kept of it outlives the present one.
    state = current_host.state
    host = state.inventory.get_host(current_host.name)
    plan = _plan(host)
    plan.also = []
    for op_hash in host.op_hash_order:
        changes = state.get_op_data_for_host(host, op_hash).operation_meta.will_change
        if changes and op_hash not in plan.covered:
            plan.also += sorted(state.get_op_meta(op_hash).names)
    if not state.check_for_changes:
        plan.details.clear()  # each is logged when it is done
    _print(host, plan)


def in_words(host: Host) -> dict[str, list[str]]:
    """The things of each verb, for the record of the deploy."""
    plan = _plan(host)
    return {verb: [item.record for item in plan.of(verb)] for verb in VERBS if plan.of(verb)}


def is_of_the_system(unit: str) -> bool:
    """Whether it is a unit of Debian's own upkeep, which nobody counts among his own."""
    return unit.startswith(OF_THE_SYSTEM)


class Late(BaseStateCallback):
    """Shows the plan of a deploy file that has no `plan.show()` at its end."""

    @staticmethod
    def operation_start(state: State, op_hash: str) -> None:
        del op_hash
        for host in state.inventory:
            Late.host_disconnect(state, host)

    @staticmethod
    def host_disconnect(state: State, host: Host) -> None:
        del state
        plan = _plan(host)
        if not plan.is_shown and not plan.is_empty:
            host.log("As far as it was planned:")
            _print(host, plan)


def _plan(host: Host) -> Plan:
    return cast("Plan", host.connector_data.setdefault(PLAN, Plan()))


def _print(host: Host, plan: Plan) -> None:
    mood = "Would" if host.state.check_for_changes else "Will"
    plan.is_shown = True
    lines = [*plan.lines(mood), *plan.details, *filter(None, [plan.count(mood)])]
    host.log(lines.pop(0) if plan.is_empty else "In short:")
    for line in lines:
        logger.info(line)
    plan.details.clear()


def _table(rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Lines with a word on the left and things on the right, in columns."""
    indent = max((len(label) for label, _ in rows), default=0) + 1
    for label, things in rows:
        # A thing is broken at no blank of its own, unless it is longer than a line.
        room = WIDTH - indent
        glued = (thing.replace(" ", "\0") if len(thing) < room else thing for thing in things)
        lines = wrap(", ".join(glued), room, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines):
            yield f"{'' if number else label:<{indent}}{line}".replace("\0", " ")
