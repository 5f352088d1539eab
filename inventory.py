"""The Pis. `CELERY_PI_HOST` (Makefile: `HOST=`) names one for a run: `pi@address`, over ssh
with sudo, or `@docker/name`. Without it, the virtual Pi. For several Pis, list them here."""

import os

from celery_pi.ssh import ssh_host

target = os.environ.get("CELERY_PI_HOST", "@docker/virtual-pi")

pis = [target if target.startswith("@") else ssh_host(target)]
