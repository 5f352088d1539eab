"""Problems that may be gone once a wrong setting is put right are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from celery_pi.settings import Settings, named_in


class Watched:
    """The settings, and which of them somebody has looked at."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        derived = getattr(type(self._settings), name, None)
        if isinstance(derived, property) and derived.fget:
            return derived.fget(self)  # so that what it is derived from is noted
        self._seen.add(name)
        return getattr(self._settings, name)

    def seen(self) -> set[str]:
        """What was looked at since the last call."""
        seen, self._seen = self._seen, set()
        return seen


def beyond_doubt(
    settings: Settings, doubtful: frozenset[str], problems: Callable[[Settings], Iterable[str]]
) -> Iterator[str]:
    """Those of the problems for which no doubtful setting was looked at, and which name none."""
    watched = Watched(settings)
    for problem in problems(cast("Settings", watched)):
        if not (watched.seen() | named_in(problem)) & doubtful:
            yield problem
