"""taskiq on a stream: it acknowledges late."""

import asyncio
import os

from done import done
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(url=os.environ["BENCH_REDIS"])


@broker.task
async def task() -> None:
    done()


async def _send(count: int) -> None:
    await broker.startup()
    for _ in range(count):
        await task.kiq()
    await broker.shutdown()


def send(count: int) -> None:
    asyncio.run(_send(count))
