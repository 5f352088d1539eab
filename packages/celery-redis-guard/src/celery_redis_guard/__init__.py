"""Safety for Celery with Redis as broker and result backend: no task is lost, none is run twice."""
