"""Celery: guarded, as the guide has it, or plain with the guard's settings."""

import os

from celery import Celery
from done import done

URL = os.environ["BENCH_REDIS"]
KIND = os.environ["BENCH_KIND"]
KEPT = os.environ["BENCH_RESULTS"] == "kept"
TUNED = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
}
GUARDED = {
    "broker_transport": "celeryredisguard:Transport",
    "result_backend": f"celeryredisguard.Backend+{URL}",
    "worker_pool": "celeryredisguard:TaskPool",
    "worker_consumer": "celeryredisguard:Consumer",
    "worker_deduplicate_successful_tasks": True,
}

app = Celery("celery_app", broker=URL, backend=URL)
app.conf.update({"guide": {}, "plain": TUNED, "guarded": TUNED | GUARDED}[KIND])


@app.task(ignore_result=not KEPT)
def task() -> None:
    done()


def send(count: int) -> None:
    for _ in range(count):
        task.delay()
