"""The tools of celery-pi on the Pi: the command `celery-pi`, and what root's units run.

Python's standard library only, so that they work while the app's environment is broken. Modules
are imported by the commands that need them, because a Pi imports slowly.
"""
