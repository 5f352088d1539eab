"""A queue with very many tasks, filled inside Redis and not by sending each."""

from __future__ import annotations

from tests.faults.site import Site
from tests.helpers.harness import wait_for

# The copies of a message differ from it in the ends of its task's id and of its delivery tag.
_COPY = """
local message = redis.call('rpop', KEYS[1])
local parts = {}
for _, text in ipairs({cjson.decode(message).headers.id,
                       cjson.decode(message).properties.delivery_tag}) do
  table.insert(parts, {(text:gsub('%-', '%%-')), text:sub(1, 24)})
end
for n = 1, ARGV[1] do
  local copy = message
  for _, part in ipairs(parts) do
    copy = copy:gsub(part[1], part[2] .. string.format('%012x', n))
  end
  redis.call('lpush', KEYS[2], copy)
end
return redis.call('llen', KEYS[2])
"""


def fill(site: Site, call: str, tasks: int, queue: str = "celery") -> None:
    """Put so many copies of that call, such as `add.delay(1, 2)`, into an empty queue.

    Nobody may consume meanwhile. On return Redis does nothing else any more.
    """
    site.ask("del", "celery", queue)
    site.in_app(f"from observations_nids.tasks import *\n{call}")
    found = site.ask("eval", _COPY, "2", "celery", queue, str(tasks))
    assert found == str(tasks), found
    settle(site)


def settle(site: Site) -> None:
    """Wait until Redis has written what it has, and rewrites no file."""
    calm = ("aof_rewrite_in_progress:0", "rdb_bgsave_in_progress:0", "aof_rewrite_scheduled:0")
    wait_for(
        "Redis is calm",
        lambda: all(line in site.ask("info", "persistence") for line in calm),
        60,
    )
