"""The hunt for the secret: output, argv, journal, files; and a password of the owner's."""

from __future__ import annotations

import base64
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.harness import APP, UNITS, deploy, fingerprint, prove, pyinfra, send, wait_for
from tests.helpers.site import LOGIN, ask, login
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.app import SOURCE
from tests.virtual_pi.engine import connect

pytestmark = pytest.mark.native

SECRETS = "/etc/celery-pi/secrets"
STORED = f"{SECRETS}/redis_celery_password"
# Every printable character of ASCII that means something to a URL, a shell, systemd or an env
# file, and two that ASCII lacks.
NASTY = "a/b+c=d#e?f%41%g@h:i&j k\"l'm\\n$o`p!q;r|s<t>u{v}w~é✓[x]*"


def secret(pi: VirtualPi) -> str:
    return pi.run("cat", STORED).stdout


class Watch:
    """Collects every command line that is seen on this machine, the containers' included."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.is_set():
            for name in os.listdir("/proc"):  # noqa: PTH208  a glob fails when a process ends
                with suppress(OSError):  # it has ended
                    self.seen.add(Path(f"/proc/{name}/cmdline").read_text(errors="replace"))
            self._stop.wait(0.005)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread.is_alive(), "the watch has gone to sleep"
        self._stop.set()
        self._thread.join()


def forget_the_secret(pi: VirtualPi) -> None:
    """Make the next deploy generate one and write all that holds it."""
    pi.run("sh", "-c", f"rm -r /etc/celery-pi/secrets; sed -i '/^CELERY_/d' {APP}/.env")


def test_generated_secret_is_strong_and_kept(pi: VirtualPi) -> None:
    first = secret(pi)
    assert len(first) >= 32
    assert first.replace("-", "").replace("_", "").isalnum()
    deploy(pi)
    assert secret(pi) == first


def test_secret_shows_in_no_output_and_no_command_line(pi: VirtualPi) -> None:
    old = secret(pi)
    forget_the_secret(pi)
    with Watch() as watch:
        run = pyinfra(pi, "-y", "-vvv", "--diff", "--debug", "inventory.py", "deploy.py")
        prove(pi)
    assert run.status == 0
    new = secret(pi)
    assert new != old
    assert "set CELERY_BROKER_URL" in run.output or "add CELERY_BROKER_URL" in run.output
    assert any("redis-cli" in line for line in watch.seen), "the watch saw nothing"
    assert any("openssl" in line for line in watch.seen), "nobody hashed Flower's password"
    assert len(set(everyones(pi))) == 6
    assert new in everyones(pi)
    for password in everyones(pi):
        assert not leaks(password, run.output, *watch.seen)


def test_secret_shows_in_no_failure(pi: VirtualPi) -> None:
    pi.run("sh", "-c", f"mv {APP}/.env /root/env && mkdir {APP}/.env")
    for verbosity in ("-v", "-vvv"):
        run = pyinfra(pi, "-y", "--diff", verbosity, "inventory.py", "deploy.py")
        assert run.status == 1
        assert not leaks(secret(pi), run.output)
    pi.run("sh", "-c", f"rmdir {APP}/.env && mv /root/env {APP}/.env")


def test_secret_shows_in_no_journal_and_no_log(pi: VirtualPi) -> None:
    typed = login(pi).removeprefix("flower:")
    assert ask(pi, "/flower/", login(pi)).status == 200
    for password in (secret(pi), typed):
        assert not leaks(password, pi.run("journalctl", "--no-pager").stdout)
        assert pi.run("grep", "-rlF", password, "/var/log", check=False).stdout == ""


def test_secret_lies_in_two_files_that_others_cannot_read(pi: VirtualPi) -> None:
    places = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var")  # noqa: S108
    search = ("grep", "-rlF", "--exclude-dir=redis", secret(pi), *places)
    found = pi.run(*search, check=False).stdout.split()
    assert sorted(found) == sorted([STORED, f"{APP}/.env"])
    owners = pi.run("stat", "-c", "%a %U:%G", STORED, f"{APP}/.env").stdout.split("\n")
    assert owners[:2] == ["600 root:root", "600 www-data:www-data"]
    assert pi.run("cat", STORED, user="pi", check=False).returncode != 0


def test_flowers_secrets_lie_in_files_that_others_cannot_read(pi: VirtualPi) -> None:
    """Its login, that in base64 beside its password for Redis, and a hash for nginx."""
    files = [LOGIN, "/etc/celery-pi/flower.env", "/etc/nginx/celery-pi.htpasswd"]
    owners = pi.run("stat", "-c", "%a %U:%G", *files).stdout.splitlines()
    assert owners == ["600 root:root", "600 root:root", "640 root:www-data"]
    encoded = base64.b64encode(login(pi).encode()).decode()
    for value, places in ((login(pi)[7:], [LOGIN]), (encoded, [files[1]])):
        search = ("grep", "-rlF", value, "/etc", "/home", "/opt", "/root", "/run", "/usr", "/var")
        assert pi.run(*search, check=False).stdout.split() == places
    assert not leaks(login(pi)[7:], pi.run("cat", files[2]).stdout)


def everyones(pi: VirtualPi) -> list[str]:
    lines = pi.run("sh", "-c", f"grep -h '' {SECRETS}/*").stdout.split()
    return [line.removeprefix("flower:") for line in lines]


def test_secret_shows_in_no_environment_that_others_can_read(pi: VirtualPi) -> None:
    look = ("sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null || true  # of others, or ended")
    owners = pi.run(*look).stdout
    assert any(leaks(password, owners) for password in everyones(pi)), "nothing was looked at"
    others = pi.run(*look, user="pi").stdout
    assert "PATH=" in others
    assert not [password for password in everyones(pi) if leaks(password, others)]


def test_secret_shows_in_no_log_of_docker(pi: VirtualPi) -> None:
    logged = connect().containers.get(pi.name).logs().decode(errors="replace")
    assert not [password for password in everyones(pi) if leaks(password, logged)]


def test_crash_leaves_no_memory_behind_and_no_secret_in_the_journal(pi: VirtualPi) -> None:
    """The kernel writes a core into the directory that a process is in, unless it is a pipe's."""
    if pi.run("cat", "/proc/sys/kernel/core_pattern").stdout.startswith("|"):
        pytest.skip("this host hands every core to a program of its own")
    cores = ("find", "/", "-xdev", "-name", "core*", "-type", "f", "-newer", "/run/before")
    pi.run("touch", "/run/before")
    dumps = ("-pLimitCORE=infinity", "-pWorkingDirectory=/run", "sh", "-c", "kill -SEGV $$$$")
    pi.run("systemd-run", "--quiet", "--wait", "--collect", *dumps, check=False)
    left = pi.run("sh", "-c", "ls /run/core*").stdout.split()
    assert left, "no core is written here at all"
    pi.run("rm", *left)
    for unit in ("celery-worker", "celery-beat", "celery-flower", "redis-server", "nginx"):
        pi.run("systemctl", "kill", "--signal=SEGV", unit)
        wait_for(f"{unit} has died", lambda unit=unit: "SEGV" in said(pi, unit))
    pi.run("systemctl", "restart", *UNITS)
    prove(pi)
    assert pi.run(*cores).stdout == ""
    journal = pi.run("journalctl", "--no-pager").stdout
    assert not [password for password in everyones(pi) if leaks(password, journal)]


def said(pi: VirtualPi, unit: str) -> str:
    return pi.run("journalctl", "--no-pager", "-u", unit, "-n", "2000").stdout


def test_env_file_keeps_the_owners_lines_to_the_byte(pi: VirtualPi) -> None:
    theirs = (SOURCE / "env.example").read_text()
    assert pi.run("cat", f"{APP}/.env").stdout.startswith(theirs)
    edited = "# first\r\nOTHER='x y'\n\n" + theirs + "LAST=no newline"
    pi.run("sh", "-c", f"cat >{APP}/.env", input=edited.encode())
    deploy(pi)
    assert pi.run("cat", f"{APP}/.env").stdout.startswith(edited)
    assert send(pi, "add", 1, 1) == "2"


def test_password_of_the_owners_works_whatever_its_characters(
    pi: VirtualPi, tmp_path: Path
) -> None:
    supplied = tmp_path / "password"
    supplied.write_text(NASTY + "\n")
    with Watch() as watch:
        run = deploy(pi, "-vvv", "--diff", redis_password_file=supplied)
    assert {"Redis | Store the passwords", "Worker | Run"} <= run.changed
    assert "Redis | Run" not in run.changed
    assert secret(pi) == NASTY
    assert "SUCCESS" in prove(pi)
    assert send(pi, "add", 2, 3) == "5"
    assert not leaks(NASTY, run.output, *watch.seen)
    assert deploy(pi, redis_password_file=supplied).changed == set()
    forget_the_secret(pi)
    assert deploy(pi).status == 0


def test_settings_on_the_pi_hold_no_secret(pi: VirtualPi) -> None:
    modes = {path: line.split()[0] for path, line in fingerprint(pi).items()}
    assert modes["/etc/celery-pi/secrets"] == "700"
    assert not leaks(secret(pi), pi.run("cat", "/etc/celery-pi/settings.json").stdout)


def leaks(value: str, *texts: str) -> bool:
    """The value, or a third of it, stands in one of the texts, as it is or in base64."""
    third = len(value) // 3
    parts = [value[:third], value[third : 2 * third], value[2 * third :]]
    for shift in range(3):  # where it stands among what is encoded with it
        encoded = base64.b64encode(b"?" * shift + value.encode()).decode()
        parts.append(encoded[4:-4])
    return any(part in text for text in texts for part in parts)
