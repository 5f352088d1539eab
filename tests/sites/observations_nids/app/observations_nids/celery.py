"""The Celery application, as Celery's guide for Django has it."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "observations_nids.settings")

app = Celery("observations_nids")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
