"""A Pi as `celery-pi doctor` looks at it, of which a test says all that is seen."""

from __future__ import annotations

import json
from typing import Any

from celery_pi.settings import Settings

UP = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "0"}


def look_at(doctor: Any, replies: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A look at a Pi with these settings. `replies` says how the commands to Redis begin and what
    it answers, or what makes the answer of their words; `asked` is what it was asked."""
    wanted = Settings(**{"redis_maxmemory": "64mb", **settings})
    look = doctor.look.Look(json.loads(wanted.model_dump_json()))
    answers = replies or {}
    look.asked = []

    def ask(*words: str, user: str = "monitor") -> Any:
        assert user in ("monitor", "admin")
        look.asked.append(" ".join(words))
        known = [key for key in answers if look.asked[-1].startswith(key)]
        reply = answers[max(known, key=len)] if known else None
        return reply(*words) if callable(reply) else reply

    look.ask = ask
    look.again = lambda *_: look
    return look


def told(look: Any, **answers: Any) -> Any:
    """The look, at workers that answer so."""
    methods: dict[str, Any] = {"active_queues": {}, "scheduled": {}, "conf": {}}
    look.told = ({**methods, **answers}, 1)
    return look


def consuming(*queues: str) -> dict[str, list[dict[str, str]]]:
    return {"celery@pi": [{"name": queue} for queue in queues]}
