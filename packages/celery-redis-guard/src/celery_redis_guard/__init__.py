"""Safety for Celery with Redis as broker and result backend.

`celery -A celery_redis_guard.app worker` (or `beat`) runs the app that CELERY_PI_APP names so that
no task is lost when a process, the worker or Redis is killed, and none is run twice while its
worker lives. README.md says what each module is for.
"""
