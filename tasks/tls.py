"""TLS for Redis: the CA and the certificate, which renew themselves."""

from celery_pi.component import Component, Unit, deploys
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.reconcile_script import reconcile_script
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings

SERVICE = "redis-certificates.service"
TIMER = "redis-certificates.timer"
SCRIPT = from_file("/usr/local/lib/celery-pi/redis-certificates", mode="0755")
EXTENSIONS = from_file("/usr/local/lib/celery-pi/redis-certificates.cnf")
TLS = Component[Settings](
    "TLS",
    enabled=lambda settings: settings.redis_tls,
    packages=("openssl",),
    units=(
        Unit(TIMER, "the certificates are not renewed in time", daemon=False),
        Unit(SERVICE, "the certificates are not renewed", root=True, daemon=False),
    ),
    writes=(SCRIPT.path, EXTENSIONS.path),
)


@deploys(TLS)
def deploy(settings: Settings) -> None:
    """The certificates are there, valid and served, and stay so; or nothing looks after them.

    Switched off, they stay on the Pi: clients that trust its CA will need no other when TLS is
    switched on again.
    """
    debian_packages(name="Install OpenSSL", packages=TLS.packages)
    units = [
        from_template(f"/etc/systemd/system/{SERVICE}", check=CHECK_UNIT, settings=settings),
        from_file(f"/etc/systemd/system/{TIMER}", check=CHECK_UNIT),
    ]
    config_files(name="Configure", files=[SCRIPT, EXTENSIONS, *units])
    reconcile_script(name="Make the certificates", script=SCRIPT)
    service(
        name="Renew them in time",
        unit=TIMER,
        watch=[unit.path for unit in units],
        # Run once as the timer will run it: it shows whether the sandbox leaves it what it needs.
        ready=f"systemctl daemon-reload && systemctl start {SERVICE}",
    )
