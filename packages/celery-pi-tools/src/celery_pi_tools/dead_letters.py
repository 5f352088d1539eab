"""Managed by celery-pi. Dead letters: tasks that are not retried, because each try ended with the
loss of their process, or no worker knows them, and what came from a queue and is no task.

    celery-pi dead-letters            list them
    celery-pi dead-letters --return   put them back to their queues, to be tried as often again

Whoever may send tasks may have written the entries. So they are put back with the rights of the app
alone, and only to queues of the settings; an entry that is no such task stays. Exit status: 0 there
are none (any more), 1 there are some, 2 Redis cannot be reached.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime

from celery_pi_tools.config import Settings
from celery_pi_tools.redis_client import Refused, Unreadable, login
from celery_pi_tools.text import printable
from celery_pi_tools.worker_control import SEPARATOR

TIMEOUT = 10  # seconds
LISTED = 1000  # of the entries, the newest
PRIORITIES = range(1, 10)
SHOWN = 60  # characters of a message that is no task
NO_TASK = (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError)

# An entry holds texts only, so that what Lua makes of JSON does not change a message.
RETURN = """
local queues = {}
for _, name in ipairs(ARGV) do queues[name] = true end
local function parts(entry)
  local good, parsed = pcall(cjson.decode, entry)
  if not good or type(parsed) ~= 'table' or type(parsed[1]) ~= 'string' then return end
  if type(parsed[2]) ~= 'table' or #parsed[2] == 0 then return end
  for _, name in ipairs(parsed[2]) do
    if not queues[name] then return end
  end
  return parsed[1], parsed[2]
end
local put, left = 0, 0
for _ = 1, redis.call('LLEN', KEYS[1]) do
  local entry = redis.call('RPOP', KEYS[1])
  local message, names = parts(entry)
  if message then
    for _, name in ipairs(names) do redis.call('LPUSH', name, message) end
    put = put + 1
  else
    redis.call('LPUSH', KEYS[1], entry)
    left = left + 1
  end
end
return {put, left}
"""


def main(settings: Settings, put_back: bool) -> int:
    key, database = settings["redis_key_prefix"] + "set-aside", settings["redis_database"]
    try:
        if put_back:
            return_to_queues(settings, key)
        entries = login("admin", TIMEOUT, database).ask("LRANGE", key, "0", str(LISTED - 1))
        if not isinstance(entries, list):
            raise Unreadable("its reply to LRANGE is no list")
    except (Refused, OSError) as error:
        print(f"celery-pi: Redis: {printable(str(error))}", file=sys.stderr)
        return 2
    for entry in entries:
        print(printable(described(entry)))
    return 1 if entries else 0


def return_to_queues(settings: Settings, key: str) -> None:
    prefix, database = settings["redis_key_prefix"], settings["redis_database"]
    plain = [f"{prefix}{queue}" for queue in settings["celery_queues"]]
    names = [*plain, *(f"{name}{SEPARATOR}{step}" for name in plain for step in PRIORITIES)]
    match login("celery", TIMEOUT, database).ask("EVAL", RETURN, "1", key, *names):
        case [int(put), int(left)]:
            pass
        case _:
            raise Unreadable("its reply to EVAL is not the script's")
    print(f"{put} put back")
    if left:
        print(f"celery-pi: {left} stay: they are no tasks for celery_queues", file=sys.stderr)


def described(entry: str) -> str:
    """An entry in one line."""
    try:
        message, queues, when = json.loads(entry)
        at = datetime.fromtimestamp(when).astimezone().isoformat(" ", "seconds")
        return f"{at}  {named(message)}  from {', '.join(queues)}"
    except NO_TASK:
        return "an entry that no worker of ours has made"


def named(message: str) -> str:
    """The task and its id, or that the message is no task."""
    try:
        headers = json.loads(message)["headers"]
        return f"{headers['task']}[{headers['id']}]"
    except NO_TASK:
        return f"no task: {message[:SHOWN]!r}"
