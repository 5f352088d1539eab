"""What the site answers."""

import uuid

from django.http import HttpResponse, JsonResponse

from observations import tasks
from observations.models import Observation
from observations_nids.config import config

KNOWN = {"quick": tasks.quick, "slow": tasks.slow, "row": tasks.row, "seen": tasks.seen}


def home(request):
    Observation.objects.exists()  # a page without its database is none
    return HttpResponse("Observations Nids\n", content_type="text/plain; charset=utf-8")


def send(request):
    """Send a task, and answer with its id."""
    words = request.GET
    identity = words.get("id") or str(uuid.uuid4())
    arguments = [float(words["seconds"])] if "seconds" in words else []
    KNOWN[words.get("task", "quick")].apply_async(arguments, task_id=identity)
    return JsonResponse({"id": identity})


def seen(request):
    """What `.env` says, as the site reads it; the worker's own words are the task's."""
    return JsonResponse({"seen": [config.mail_host, config.mail_port, config.lang_]})
