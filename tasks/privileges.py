"""What root's programs on the Pi have in common: how they work as another user, or where another
user may write, and how they show text of others."""

from celery_pi.render import from_file

LIBRARY = "/usr/local/lib/celery-pi"
FILES = [from_file(f"{LIBRARY}/celery_pi_{module}.py") for module in ("privileges", "text")]
