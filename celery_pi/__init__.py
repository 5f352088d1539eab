"""What the tasks share: settings, preflight, secrets, and the operations pyinfra lacks.

Whatever of it pyinfra loads first, from then on it shows nothing of a Pi's as it came.
"""

from celery_pi.terminal import protect

protect()
