"""New passwords for every user of Redis, while all goes on: `make rotate`."""

from pyinfra import host

from celery_pi.component import deploys
from celery_pi.secrets import renew_passwords
from celery_pi.settings import Settings
from tasks import app, beat, flower, redis, worker


@deploys("Rotation")
def deploy(settings: Settings) -> None:
    """Every service has a new password, and the old ones are valid until the last one has it."""
    renew_passwords(host, settings)
    redis.deploy()
    app.deploy()
    worker.deploy()
    beat.deploy()
    flower.deploy()
    redis.retire()
