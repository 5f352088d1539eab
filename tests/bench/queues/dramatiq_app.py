"""dramatiq: it acknowledges late."""

import os

import dramatiq
from done import done
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))


@dramatiq.actor
def task() -> None:
    done()


def send(count: int) -> None:
    for _ in range(count):
        task.send()
