"""Root's jobs: how each is run in real life, or within which other it is.

By the names that `discovery` gives them. A job that is not named here fails the walk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Seconds: a restore waits for the worker, which may take TimeoutStartSec (300) to start, as when
# its code is a FIFO.
RESTORE = 420
ARCHIVE = "/root/celery-pi-walk.tar.gz"  # a backup from before the traps


@dataclass(frozen=True)
class Job:
    """A command of root's. `limit` is in seconds; at `interrupt`, a person would give up.

    `among` names the places of the traps among which it is run: `app`, or `rest` (the code, and
    what is Redis'). `users` are those who it has work for it when all is well.
    """

    command: str
    limit: float = 60
    interrupt: float = 0
    among: tuple[str, ...] = ("app",)
    users: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """As the runner takes it."""
        shell = ["sh", "-c", f"exec {self.command}"]
        limits = {"limit": self.limit, "interrupt": self.interrupt}
        return {"name": self.command, "command": shell, **limits}


BOTH = ("app", "rest")
ROTATE = "systemd-run --quiet --wait --collect --unit=walk-logrotate logrotate --force"
STATE = "--state /var/lib/logrotate/celery-pi-walk"


def restart(unit: str, among: tuple[str, ...] = ("app",), *users: str) -> list[Job]:
    """What needs Redis waits for as long as systemd tries to start that: a person gives up."""
    interrupt = 20 if "rest" in among else 0
    return [Job(f"systemctl restart {unit}", interrupt=interrupt, among=among, users=users)]


# They are run in this order.
JOBS: dict[str, list[Job] | str] = {
    "command check": [Job("celery-pi check", among=BOTH, users=("www-data",))],
    "command smoke-test": [Job("celery-pi smoke-test", users=("www-data",))],
    "command status": [Job("celery-pi status", among=BOTH, users=("www-data",))],
    "command audit": [Job("celery-pi audit", among=BOTH, users=("www-data",))],
    "command deploys": [Job("celery-pi deploys")],
    "command dead-letters": [
        Job("celery-pi dead-letters"),
        Job("celery-pi dead-letters --return"),
    ],
    # Before those that put its data in order.
    "unit redis-server.service": restart("redis-server", BOTH, "redis"),
    "command backup": [Job("celery-pi backup", among=BOTH, users=("www-data", "redis"))],
    "command drill": [Job("celery-pi drill", users=("redis",))],
    "command doctor": [
        Job("celery-pi doctor", among=BOTH, users=("www-data",)),
        Job("celery-pi doctor --fix", limit=90, among=BOTH, users=("www-data",)),
    ],
    # It waits while systemd tries to start Redis, three times, and once more when it goes back.
    "command restore": [
        Job(f"celery-pi restore --yes {ARCHIVE}", limit=RESTORE, among=BOTH, users=("redis",))
    ],
    # It waits until the worker is back.
    "command maintenance": [
        Job("celery-pi maintenance on --message Soon", interrupt=4),
        Job("celery-pi maintenance off", interrupt=4),
        Job("celery-pi maintenance"),
    ],
    "unit celery-pi-backup.service": [
        Job("systemctl start celery-pi-backup", users=("www-data", "redis"))
    ],
    "unit celery-pi-drill.service": [Job("systemctl start celery-pi-drill", users=("redis",))],
    "unit celery-beat-clock.service": restart("celery-beat-clock"),
    "unit celery-worker.service": restart("celery-worker", BOTH, "www-data"),
    "unit celery-beat.service": restart("celery-beat", BOTH, "www-data"),
    "unit celery-flower.service": restart("celery-flower", BOTH, "celery-flower"),
    "unit nginx.service": [
        *restart("nginx", ("app",), "www-data"),
        Job("systemctl reload nginx", users=("www-data",)),
    ],
    "unit nginx-certificate.service": [Job("systemctl start nginx-certificate")],
    "unit fail2ban.service": restart("fail2ban"),
    "unit redis-memory.service": restart("redis-memory"),
    "unit redis-certificates.service": [Job("systemctl start redis-certificates", among=BOTH)],
    "unit apt-daily.service": "Debian's, which gets lists into directories of root's and of _apt's",
    "unit apt-daily-upgrade.service": [
        Job("env DEBIAN_FRONTEND=noninteractive needrestart")  # what we add to it
    ],
    "logrotate.d celery-pi": [
        Job(f"{ROTATE} {STATE} /etc/logrotate.d/celery-pi", limit=150, users=("www-data",))
    ],
    "tmpfiles.d celery-pi-redis.conf": [
        Job("systemd-tmpfiles --create /etc/tmpfiles.d/celery-pi-redis.conf", among=BOTH)
    ],
    "tmpfiles.d celery-pi-kernel.conf": "one file below /sys",
    "restart.d celery-worker.service": [
        Job("/etc/needrestart/restart.d/celery-worker.service", users=("www-data",))
    ],
    # Programs of the library.
    **{
        f"program {name}": "within the deploy"
        for name in (
            *("check-fail2ban-config", "check-nginx-config", "check-redis-config"),
            *("nginx-certificate", "nginx-login"),
        )
    },
    "program backup-off-site": "within celery-pi backup, and reads what is root's",
    "program celery_pi_tools/__main__.py": "within celery-pi status: it is the command itself",
    "program celery_pi_tools/checks/http_probe.py": "within celery-pi audit, as nobody",
    "program celery_pi_tools/privileges.py": "within most of the others",
    "program clock-is-set": "unit celery-beat-clock.service",
    "program redis-before-start": "unit redis-server.service, as user redis",
    "program redis-certificates": "unit redis-certificates.service",
    "program redis-cli": "within redis-memory.service",
    "program redis-memory": "unit redis-memory.service",
    "program celery_pi_tools/log_rotation.py": "logrotate.d celery-pi, as the app's user",
    "program celery_pi_tools/env_launcher.py": "within with-env-file, as the app's user",
    "program with-env-file": "within celery-worker and celery-beat, as the app's user",
    "program celery_pi_tools/backup/redis_data.py": "within celery-pi restore, as user redis",
    "program celery_pi_tools/backup/scratch_server.py": "within celery-pi backup, as user redis",
    "program celery_pi_tools/backup/sqlite_copy.py": "within celery-pi backup, as the app's user",
    "program guard/celery_redis_guard/check_app.py": "within celery-pi check, as the app's user",
    "program celery_pi_tools/worker_sandbox.py": "within celery-pi check, as the app's user",
    "program guard/celery_redis_guard/smoke_test.py": "within celery-pi smoke-test",
    # Files below /etc that start nothing by themselves.
    **{
        f"file /etc/{path}": f"read by {reader}"
        for path, reader in (
            ("apt/apt.conf.d/52celery-pi", "apt"),
            ("celery-pi/flower.env", "systemd, from a directory of root's"),
            ("celery-pi/redis.conf", "redis-server"),
            ("celery-pi/redis-live.conf", "redis-server"),
            ("fail2ban/filter.d/celery-pi-flower.conf", "fail2ban"),
            ("fail2ban/jail.d/zz-celery-pi.conf", "fail2ban"),
            ("needrestart/conf.d/celery-pi.conf", "needrestart"),
            ("nginx/conf.d/celery-pi.conf", "nginx"),
            ("nginx/sites-enabled/default", "nginx"),
            ("nginx/sites-enabled/zz-celery-pi", "nginx"),
            ("nginx/snippets/celery-pi-flower.conf", "nginx"),
            ("nginx/snippets/celery-pi-maintenance.conf", "nginx"),
            ("sysctl.d/60-celery-pi.conf", "sysctl"),
            ("systemd/journald.conf.d/celery-pi.conf", "journald"),
            ("systemd/system.conf.d/celery-pi.conf", "systemd"),
            ("systemd/zram-generator.conf.d/celery-pi.conf", "systemd"),
            ("sysusers.d/celery-flower.conf", "systemd-sysusers: users alone"),
        )
    },
}


def among(places: str) -> list[Job]:
    """The jobs that are run among those traps."""
    jobs = [job for jobs in JOBS.values() if isinstance(jobs, list) for job in jobs]
    return [job for job in jobs if places in job.among]
