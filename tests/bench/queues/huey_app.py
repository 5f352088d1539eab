"""huey: a task is off its queue before it runs, and lost with its process."""

import os

from done import done
from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"], results=False)


@huey.task()
def task() -> None:
    done()


def send(count: int) -> None:
    for _ in range(count):
        task()
