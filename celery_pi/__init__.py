"""What the tasks share: settings, preflight, secrets, and the operations pyinfra lacks.

As soon as pyinfra imports any part of it, a Pi's output is made printable before it is shown.
"""

from celery_pi.terminal import protect

protect()
