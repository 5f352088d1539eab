"""Managed by celery-pi. Asks the workers what they do, over Celery's own control channel.

Without Celery, which takes seconds to load on a Pi. A question is published, and each worker
writes its answer to a list whose name it finds under the caller's.
https://docs.celeryq.dev/en/stable/userguide/workers.html#remote-control
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from uuid import uuid4

from celery_pi_checks.look import Look
from celery_pi_checks.registry import CannotLook

PATIENCE = 1.5  # seconds for all answers
LARGEST = 3 * 2**20  # bytes of all answers; a worker may be hostile, and Python's lists are large
BETWEEN = "\x06\x16"  # what kombu puts between the parts of a binding
ANSWERS = "reply.celery.pidbox"
EXCHANGE = "celery.pidbox"

Told = dict[str, dict[str, list[Any]]]


def tell(look: Look, methods: tuple[str, ...]) -> tuple[Told, int]:
    """Each method's answer by worker, and how many workers heard the question.

    A worker that does not answer in time is missing. As `admin`: whoever may ask a worker may
    also stop it, which is no right of `monitor`.
    """
    me = str(uuid4())
    bindings, mine = look.key(f"_kombu.binding.{ANSWERS}"), look.key(f"{me}.{ANSWERS}")
    binding = BETWEEN.join((me, "", f"{me}.{ANSWERS}"))
    look.ask("SADD", bindings, binding, user="admin")
    try:
        return _asked(look, methods, me, mine)
    finally:
        look.ask("SREM", bindings, binding, user="admin")
        look.ask("DEL", mine, user="admin")


def _asked(look: Look, methods: tuple[str, ...], me: str, mine: str) -> tuple[Told, int]:
    channel = look.key(f"/{look.settings['redis_database']}.{EXCHANGE}")
    told: Told = {method: {} for method in methods}
    tickets = {str(uuid4()): method for method in methods}
    heard = [
        look.ask("PUBLISH", channel, question(method, ticket, me), user="admin")
        for ticket, method in tickets.items()
    ]
    deadline, size = time.monotonic() + PATIENCE, 0
    for _ in range(sum(heard)):
        message = _next(look, mine, deadline)
        if message is None:
            break
        size += len(message)
        if size > LARGEST:
            told_more = f"workers answer with more than {LARGEST} bytes"
            raise CannotLook(told_more, "systemctl restart celery-worker")
        ticket, answer = read(message)
        told[tickets[ticket]].update(answer)
    return told, max(heard)


def _next(look: Look, mine: str, deadline: float) -> str | None:
    """The next answer, or none when the time is over."""
    while (left := deadline - time.monotonic()) > 0:
        # At least as long that it is no 0, which is for ever; less than Redis itself may take.
        found = look.ask("BRPOP", mine, f"{max(0.05, min(left, 0.5)):.2f}", user="admin")
        if found is not None:
            return str(found[1])
    return None


def question(
    method: str,
    ticket: str,
    me: str,
    arguments: dict[str, str] | None = None,
    destination: list[str] | None = None,
) -> str:
    """A message as kombu sends it, to the workers of these names or else to all."""
    body = {
        "method": method,
        "arguments": arguments or {},
        "destination": destination,
        "pattern": None,
        "matcher": None,
        "ticket": ticket,
        "reply_to": {"exchange": ANSWERS, "routing_key": me},
    }
    message = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 0, "expires": time.time() + PATIENCE},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": EXCHANGE, "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": ticket,
        },
    }
    return json.dumps(message)


def read(text: str) -> tuple[str, dict[str, list[Any]]]:
    """Ticket and answer of a message that a worker has written."""
    message = json.loads(text)
    answer = json.loads(base64.b64decode(message["body"]))
    return message["headers"]["ticket"], answer
