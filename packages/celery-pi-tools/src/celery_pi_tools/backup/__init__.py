"""Managed by celery-pi. Backup, restore and drill.

Python's standard library and Redis' own programs only: a restore needs nothing of the app's.
"""
