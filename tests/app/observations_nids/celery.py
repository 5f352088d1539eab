"""The Celery application, configured as the real project configures it."""

import os

from celery import Celery

from observations_nids import config

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "observations_nids.settings")

TICK = 5  # seconds between two runs of the periodic task

prefixed = {"global_keyprefix": config.celery.key_prefix} if config.celery.key_prefix else {}
# The site's sends end within 5 s while Redis does not answer: docs/operate/tasks.md.
within = 1.0  # seconds for one wait

app = Celery("observations_nids")
app.conf.update(
    broker_url=config.celery.broker_url,
    result_backend=config.celery.result_backend,
    broker_transport_options={
        **prefixed,
        "socket_timeout": within,
        "socket_connect_timeout": within,
    },
    redis_socket_timeout=within,
    redis_socket_connect_timeout=within,
    result_backend_transport_options={
        **prefixed,
        "retry_policy": {
            **{"timeout": within, "interval_start": 0.1},
            **{"interval_step": 0.1, "interval_max": 0.2},
        },
    },
    task_publish_retry_policy={
        **{"max_retries": 1, "interval_start": 0.5},
        **{"interval_step": 0.1, "interval_max": 0.5},
    },
    task_serializer="json",
    accept_content=["json"],
    result_serializer="json",
    timezone="Europe/Paris",
    task_track_started=True,
    task_time_limit=30 * 60,
    task_acks_late=True,
    task_default_retry_delay=30,
    beat_schedule={"tick": {"task": "observations_nids.tasks.tick", "schedule": TICK}},
)
app.autodiscover_tasks(["observations_nids"])
app.autodiscover_tasks(["observations_nids"], related_name="probes")
