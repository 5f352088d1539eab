"""Redis and Celery for a Django project on a Raspberry Pi: the components, in order."""

from tasks import (
    app,
    backup,
    bans,
    beat,
    board,
    command,
    firewall,
    flower,
    kernel,
    logs,
    nginx,
    packages,
    redis,
    updates,
    worker,
)

kernel.deploy()
board.deploy()
app.begin()
packages.deploy()
firewall.deploy()  # before anything opens a port
logs.deploy()
redis.deploy()
app.deploy()  # before the services that run the app
command.deploy()  # before the worker, which it checks
worker.deploy()
beat.deploy()
flower.deploy()
nginx.deploy()
bans.deploy()
redis.retire()  # of passwords, once every service has the new one
backup.deploy()
updates.deploy()  # a timer that was missed starts them at once
