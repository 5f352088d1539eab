"""Managed by celery-pi. Celery's remote control, without Celery, which a Pi loads for seconds.

A command is published, and each worker writes its answer to the list that the command names.
https://docs.celeryq.dev/en/stable/userguide/workers.html#remote-control
"""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from celery_pi_tools.system import System
from celery_pi_tools.commands import CannotRead

TIMEOUT = 1.5  # seconds for all answers
LARGEST = 3 * 2**20  # bytes of all answers; a worker may be hostile, and Python's lists are large
SEPARATOR = "\x06\x16"  # kombu's, between the parts of a binding, and before a priority
ANSWERS = "reply.celery.pidbox"
EXCHANGE = "celery.pidbox"
RESTART_WORKER = "systemctl restart celery-worker"

Answers = dict[str, dict[str, list[Any]]]


def ask_workers(system: System, methods: tuple[str, ...]) -> tuple[Answers, int]:
    """Each method's answers by worker, and the number of workers that received the command.

    A worker that does not answer within TIMEOUT is missing. The Redis user is `admin`: whoever may
    send such a command may also stop a worker, so `monitor` may not. Raises CannotRead.
    """
    own_id = str(uuid4())
    bindings, reply_list = (
        system.key(f"_kombu.binding.{ANSWERS}"),
        system.key(f"{own_id}.{ANSWERS}"),
    )
    binding = SEPARATOR.join((own_id, "", f"{own_id}.{ANSWERS}"))
    system.ask("SADD", bindings, binding, user="admin")
    try:
        return _broadcast(system, methods, own_id, reply_list)
    finally:
        system.ask("SREM", bindings, binding, user="admin")
        system.ask("DEL", reply_list, user="admin")


def _broadcast(
    system: System, methods: tuple[str, ...], own_id: str, reply_list: str
) -> tuple[Answers, int]:
    channel = system.key(f"/{system.settings['redis_database']}.{EXCHANGE}")
    answers: Answers = {method: {} for method in methods}
    tickets = {str(uuid4()): method for method in methods}
    received = [
        system.ask("PUBLISH", channel, command(method, ticket, own_id), user="admin")
        for ticket, method in tickets.items()
    ]
    if not all(isinstance(number, int) for number in received):
        raise CannotRead("Redis does not count the workers", "systemctl restart redis-server")
    deadline, size = time.monotonic() + TIMEOUT, 0
    for _ in range(sum(received)):
        message = _next(system, reply_list, deadline)
        if message is None:
            break
        size += len(message)
        if size > LARGEST:
            reason = f"workers answer with more than {LARGEST} bytes"
            raise CannotRead(reason, RESTART_WORKER)
        ticket, answer = read(message)
        if ticket not in tickets:
            raise CannotRead("a worker answers what was not asked", RESTART_WORKER)
        answers[tickets[ticket]].update(answer)
    return answers, max(received)


def _next(system: System, reply_list: str, deadline: float) -> str | None:
    """The next answer; None after the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        # Not 0, which waits for ever; less than the time-out of Redis' reply.
        reply = system.ask("BRPOP", reply_list, f"{max(0.05, min(left, 0.5)):.2f}", user="admin")
        if isinstance(reply, list) and len(reply) == 2:
            return str(reply[1])
        if reply is not None:
            raise CannotRead("Redis answers BRPOP with something else", RESTART_WORKER)
    return None


def command(
    method: str,
    ticket: str,
    own_id: str,
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
        "reply_to": {"exchange": ANSWERS, "routing_key": own_id},
    }
    message = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 0, "expires": time.time() + TIMEOUT},
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
    """Ticket and answer in a worker's message. Raises CannotRead for one that is not kombu's: the
    app can write any."""
    try:
        message = json.loads(text)
        ticket, answer = message["headers"]["ticket"], json.loads(base64.b64decode(message["body"]))
    except (ValueError, TypeError, KeyError, RecursionError):  # no JSON, of another form, too deep
        answer = None
    if not isinstance(answer, dict) or not isinstance(ticket, str):
        # Without its text, which may be of any kind.
        raise CannotRead("a worker's answer is not of Celery's protocol", RESTART_WORKER)
    return ticket, answer
