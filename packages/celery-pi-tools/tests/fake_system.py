"""A Pi whose state a test defines, for the checks of `celery-pi`."""

from __future__ import annotations

import json
from typing import Any

from celery_pi.settings import Settings
from celery_pi_tools.system import System

UP = {
    **{"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "0"},
    **{"Result": "success", "ActiveEnterTimestampMonotonic": "0", "StatusText": ""},
}


def fake_system(replies: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A Pi with these settings. `replies` are Redis' replies by the beginning of the command, or
    functions that make a reply of its words; `asked` lists the commands."""
    wanted = Settings(**{"redis_maxmemory": "64mb", **settings})
    system: Any = System(json.loads(wanted.model_dump_json()))
    answers = replies or {}
    system.asked = []

    def ask(*words: str, user: str = "monitor") -> Any:
        assert user in ("monitor", "admin")
        system.asked.append(" ".join(words))
        known = [key for key in answers if system.asked[-1].startswith(key)]
        reply = answers[max(known, key=len)] if known else None
        return reply(*words) if callable(reply) else reply

    system.ask = ask
    system.refresh = lambda *_: system
    return system


def answering(system: Any, **answers: Any) -> Any:
    """The system, at workers that answer so."""
    methods: dict[str, Any] = {"active_queues": {}, "scheduled": {}, "conf": {}}
    system.worker_answers = ({**methods, **answers}, 1)
    return system


def consuming(*queues: str) -> dict[str, list[dict[str, str]]]:
    return {"celery@pi": [{"name": queue} for queue in queues]}
