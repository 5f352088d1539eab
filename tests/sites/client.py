"""Somebody who uses the site: each second asks it, and has it send a task.

    python -m tests.sites.client NAME SECONDS

It works from this host, through the machine's address, in processes that no deploy knows of. What
became of the tasks, they have told themselves: see `build.Site.runs`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.parse import urlencode

from tests.sites.build import Run, Site, get
from tests.virtual_pi import VirtualPi, VirtualPiError

PERIOD = 1.0  # seconds
ANSWER_SECONDS = 20  # after which nobody waits any longer
ASKED = ("http", "https")
LAST_TICK_SECONDS = ANSWER_SECONDS + 10


@dataclass(frozen=True)
class Tick:
    """One question: when, what was asked, and what came of it."""

    at: float
    what: str
    outcome: str
    seconds: float
    excused: bool
    task: str = ""


@dataclass(frozen=True)
class Report:
    """All that was asked, and what became of the tasks that were sent."""

    ticks: list[Tick]
    other: list[Tick]
    """Answers of the site other than the first ones."""
    unsent: list[Tick]
    lost: list[str]
    """Tasks that were sent and have not ended."""
    twice: list[str]
    """Tasks that have ended more than once."""
    begun_again: list[str]
    """Tasks that have begun more often than they have ended, though they have: cut off, and done
    again."""

    @property
    def sent(self) -> list[str]:
        return [tick.task for tick in self.ticks if tick.what == "send" and tick.outcome == "sent"]

    @property
    def troubles(self) -> dict[str, int]:
        """Number of each thing that must not be, without those that are not."""
        found = ("other", "unsent", "lost", "twice")
        return {name: len(getattr(self, name)) for name in found if getattr(self, name)}

    def log(self) -> str:
        """A line for each question."""
        return "\n".join(
            f"{clock(tick.at)} {tick.what:<5} {tick.seconds:5.2f} s  {tick.outcome}"
            + (f" {tick.task}" if tick.task else "")
            + (" (away)" if tick.excused else "")
            for tick in self.ticks
        )

    def __str__(self) -> str:
        slowest = max((tick.seconds for tick in self.ticks), default=0)
        counts = [f"{len(self.ticks)} asked", f"{len(self.sent)} tasks sent"]
        counts += [f"{len(self.other)} answers other than before", f"{len(self.unsent)} not sent"]
        counts += [f"{len(self.lost)} lost", f"{len(self.twice)} run twice"]
        counts += [f"{len(self.begun_again)} begun again", f"slowest answer {slowest:.1f} s"]
        wrong = [*self.other, *self.unsent]
        lines = [f"  {clock(tick.at)} {tick.what:<5} {tick.outcome}" for tick in wrong]
        return "\n".join([", ".join(counts), *lines])


@dataclass
class Client:
    """Asks from `start` until `stop`. A question that is not answered holds up no other."""

    site: Site
    task: str = "quick"
    patience: float = 120
    """Seconds for the tasks that wait at the end, and for a machine that is away."""
    _ticks: list[Tick] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _excused: bool = False
    _expected: str = ""
    _sent_before: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """The site's first answer, which must be a good one, is what all others are to be."""
        status, text = self.site.ask("/")
        if status != 200:
            raise AssertionError(f"the site does not answer before anything is done: {status}")
        self._expected = _outcome(status, text)
        self._begin(self._ask_again_and_again)

    def send(self, task: str, number: int = 1, seconds: float | None = None) -> list[str]:
        """Have the site send tasks beside those of every second; all of them must be sent."""
        asked = [(task, str(uuid.uuid4()), seconds) for _ in range(number)]
        for one in asked:
            status, text = self.site.ask(_path(*one))
            if status != 200:
                raise AssertionError(f"the site does not send: {status}")
            self._sent_before[json.loads(text)["id"]] = time.time()
        return [identity for _, identity, _ in asked]

    @contextmanager
    def away(self) -> Iterator[None]:
        """While the machine is away: what is asked from now on needs no answer, until the site
        gives its first good one after. Tasks that were sent count all the same."""
        self._excused = True
        try:
            yield
            deadline = time.monotonic() + self.patience
            while self._answer("http")[0] != self._expected:
                if time.monotonic() > deadline:
                    raise AssertionError(f"the site is not back within {self.patience:g} s")
                time.sleep(0.2)
        finally:
            self._excused = False

    def since(self, at: float) -> Report:
        """What has been asked from then until now; of the tasks nothing is known yet."""
        ticks = sorted((tick for tick in self._ticks if tick.at >= at), key=lambda tick: tick.at)
        return report(ticks, self._expected, set(), {})

    def stop(self) -> Report:
        """Ask no more, wait for the tasks that were sent, and tell."""
        self._over.set()
        deadline = time.monotonic() + LAST_TICK_SECONDS
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        ticks = sorted(self._ticks, key=lambda tick: tick.at)
        sent = {tick.task for tick in ticks if tick.outcome == "sent"} | set(self._sent_before)
        runs = self._settled(sent)
        return report(ticks, self._expected, sent, runs)

    def _settled(self, sent: set[str]) -> dict[str, Run]:
        """What the tasks have told once all of them have ended, or time is up."""
        deadline = time.monotonic() + self.patience
        while True:
            runs = self.site.runs()
            done = all(runs.get(task, Run(0, 0)).ended for task in sent)
            if done or time.monotonic() > deadline:
                return runs
            time.sleep(1)

    def _ask_again_and_again(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            for what in ASKED:
                self._begin(self._look, what)
            self._begin(self._send)
            due += PERIOD
            self._over.wait(max(0, due - time.monotonic()))

    def _begin(self, function: Callable[..., None], *arguments: str) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _look(self, scheme: str) -> None:
        at, excused = time.time(), self._excused
        outcome, seconds = self._answer(scheme)
        # A question that was put just before the machine went away is one of those.
        self._ticks.append(Tick(at, scheme, outcome, seconds, excused or self._excused))

    def _send(self) -> None:
        at, excused, identity = time.time(), self._excused, str(uuid.uuid4())
        outcome, seconds = self._answer("http", _path(self.task, identity, None))
        sent = outcome == f'200 {{"id": "{identity}"}}'
        tick = Tick(
            at, "send", "sent" if sent else outcome, seconds, excused or self._excused, identity
        )
        self._ticks.append(tick)

    def _answer(self, scheme: str, path: str = "/") -> tuple[str, float]:
        """What the site says, or why it says nothing; and after how many seconds."""
        start = time.monotonic()
        try:
            status, text = get(
                self.site.pi.address, path, tls=scheme == "https", timeout=ANSWER_SECONDS
            )
            outcome = _outcome(status, text)
        except (OSError, HTTPException, KeyError, VirtualPiError) as error:
            # A machine that is away has no address.
            outcome = f"no answer: {type(error).__name__} {error}"[:120]
        return outcome, time.monotonic() - start


def report(ticks: list[Tick], expected: str, sent: set[str], runs: dict[str, Run]) -> Report:
    """What the ticks and the tasks' own words come to."""
    asked = [tick for tick in ticks if not tick.excused]
    told = {task: runs.get(task, Run(0, 0)) for task in sent}
    return Report(
        ticks=ticks,
        other=[tick for tick in asked if tick.what in ASKED and tick.outcome != expected],
        unsent=[tick for tick in asked if tick.what == "send" and tick.outcome != "sent"],
        lost=sorted(task for task, run in told.items() if run.ended == 0),
        twice=sorted(task for task, run in runs.items() if run.ended > 1),
        begun_again=sorted(task for task, run in runs.items() if run.begun > run.ended > 0),
    )


def _outcome(status: int, text: str) -> str:
    return f"{status} {' '.join(text.split())[:80]}"


def clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _path(task: str, identity: str, seconds: float | None) -> str:
    words = {"task": task, "id": identity}
    return "/send?" + urlencode(words if seconds is None else words | {"seconds": seconds})


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2])
    client = Client(Site(VirtualPi(name)))
    client.start()
    time.sleep(seconds)
    print(client.stop())


if __name__ == "__main__":
    main()
