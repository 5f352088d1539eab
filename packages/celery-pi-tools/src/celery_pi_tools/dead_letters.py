#!/usr/bin/python3
"""Managed by celery-pi. The tasks that were set aside because their process was lost each time.

    celery-pi set-aside            list them
    celery-pi set-aside --return   put them back to their queues, to be tried as often again

What is in Redis may be of anybody's making who may send tasks. So they are put back with the rights
of the app and not with all, and only to queues of the settings; what is no such task stays. Exit
status: 0 none is set aside (any more), 1 some are, 2 Redis could not be asked.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from celery_pi_checks.control import BETWEEN
from celery_pi_checks.resp import Connection, Refused, login
from celery_pi_text import printable

SETTINGS = Path("/etc/celery-pi/settings.json")
PATIENCE = 10  # seconds
SHOWN = 1000  # of the entries, the newest
PRIORITIES = range(1, 10)

# An entry holds texts only, so that what Lua makes of JSON does not change a message.
RETURN = """
local queues = {}
for _, name in ipairs(ARGV) do queues[name] = true end
local function parts(entry)
  local good, told = pcall(cjson.decode, entry)
  if not good or type(told) ~= 'table' or type(told[1]) ~= 'string' then return end
  if type(told[2]) ~= 'table' or #told[2] == 0 then return end
  for _, name in ipairs(told[2]) do
    if not queues[name] then return end
  end
  return told[1], told[2]
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


def main(arguments: list[str]) -> int:
    settings = json.loads(SETTINGS.read_text())
    key = settings["redis_key_prefix"] + "set-aside"
    try:
        if arguments == ["--return"]:
            put_back(settings, key)
        entries = asked("admin", settings).ask("LRANGE", key, "0", str(SHOWN - 1))
    except (Refused, OSError) as error:
        print(f"celery-pi: Redis: {printable(str(error))}", file=sys.stderr)
        return 2
    for entry in entries:
        print(printable(told(entry)))
    return 1 if entries else 0


def put_back(settings: dict[str, Any], key: str) -> None:
    prefix = settings["redis_key_prefix"]
    plain = [f"{prefix}{queue}" for queue in settings["celery_queues"]]
    names = [*plain, *(f"{name}{BETWEEN}{step}" for name in plain for step in PRIORITIES)]
    put, left = asked("celery", settings).ask("EVAL", RETURN, "1", key, *names)
    print(f"{put} put back")
    if left:
        print(f"celery-pi: {left} stay: they are no tasks for celery_queues", file=sys.stderr)


def asked(user: str, settings: dict[str, Any]) -> Connection:
    """A connection of that user of Redis, in the app's database. Raises Refused, OSError."""
    connection = login(user, PATIENCE)
    if settings["redis_database"]:
        connection.ask("SELECT", str(settings["redis_database"]))
    return connection


def told(entry: str) -> str:
    """An entry in one line."""
    try:
        message, queues, when = json.loads(entry)
        headers = json.loads(message)["headers"]
        at = datetime.fromtimestamp(when).astimezone().isoformat(" ", "seconds")
        return f"{at}  {headers['task']}[{headers['id']}]  from {', '.join(queues)}"
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        return "an entry that no worker of ours has made"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
