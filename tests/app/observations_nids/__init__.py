"""A small Django project in the shape of the real one, standing for what a Pi already runs."""

from observations_nids.celery import app as celery_app

__all__ = ("celery_app",)
