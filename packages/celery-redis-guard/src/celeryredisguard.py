"""The classes that Celery's settings name. No underscore: a URL's scheme has none (RFC 3986).

    result_backend = "celeryredisguard.Backend+redis://user:password@localhost:6379/0"

Behind any other name Celery would not find the password in the URL, and would log it.
"""

from celery_redis_guard.backend import Backend
from celery_redis_guard.beat import Scheduler
from celery_redis_guard.consumer import Consumer
from celery_redis_guard.pool import TaskPool
from celery_redis_guard.transport import Transport

__all__ = ["Backend", "Consumer", "Scheduler", "TaskPool", "Transport"]
