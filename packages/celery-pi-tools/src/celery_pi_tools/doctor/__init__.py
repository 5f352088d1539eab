"""Managed by celery-pi. The command `celery-pi doctor`: its view of the checks, and repairs."""
