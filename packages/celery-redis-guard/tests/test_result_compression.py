"""A success stays one, also where the app compresses its results, as Celery 5.7 can."""

from __future__ import annotations

import pytest
from celery import Celery, states

from redis_server import redis_server

pytestmark = pytest.mark.fast


def test_success_is_not_overwritten_in_an_app_that_compresses_results() -> None:
    with redis_server() as (_, place):
        backend = f"celeryredisguard.Backend+{place}"
        app = Celery("site", backend=backend, set_as_current=False)
        app.conf.result_compression = "gzip"
        app.backend.store_result("1", "done", states.SUCCESS)
        app.backend.store_result("1", ValueError("lost"), states.FAILURE)
        assert app.backend.get_task_meta("1")["status"] == states.SUCCESS
