"""Redis and Celery for a Django project on a Raspberry Pi: the components, in order."""

from celery_pi import plan
from celery_pi.deploys import run
from tasks import (
    app,
    backup,
    bans,
    beat,
    command,
    firewall,
    flower,
    kernel,
    logs,
    nginx,
    packages,
    raspberry_pi,
    redis,
    takeover,
    updates,
    worker,
)

kernel.deploy()
raspberry_pi.deploy()
# What may fail for reasons from outside comes first; the site feels none of it.
app.begin()
packages.deploy()
app.install()
command.deploy()
worker.rehearse()
firewall.deploy()  # before anything opens a port
logs.deploy()
takeover.begin()
redis.deploy()
app.connect()  # at once: the site's processes use what has changed
worker.deploy()
beat.deploy()
flower.deploy()
app.prune()  # once each service runs what is new
takeover.end()
nginx.deploy()
bans.deploy()
redis.retire()  # of passwords, once every service has the new one
backup.deploy()
command.prune()  # once no unit starts them
updates.deploy()  # a timer that was missed starts them at once
plan.show()
run.end()
