"""Who deploys: ours, Ansible, the baseline; each over docker or over ssh. A run is its seconds."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from tests.bench.baseline import NO_OP
from tests.helpers.harness import PYINFRA, ROOT, Outcome, run
from tests.virtual_pi import VirtualPi

OURS, ANSIBLE, BASELINE = "celery-pi", "Ansible", "baseline"
UNITS = ("redis-server", "celery-worker", "celery-beat", "celery-flower", "nginx", "fail2ban")
_HERE = Path(__file__).parent
_VENV = ROOT / ".venv-bench"
_BETWEEN = 6  # seconds: the firewall refuses whoever comes a sixth time within 30
_SSH = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new")


@dataclass(frozen=True)
class Way:
    """How a machine is reached: over docker, or, with a home that has a key, over ssh."""

    pi: VirtualPi
    home: Path | None = None

    def ours(self, megabytes: int | None = None) -> float:
        """Our deploy, with so much memory for Redis."""
        host = f"pi@{self.pi.address}" if self.home else f"@docker/{self.pi.name}"
        data = ("--data", f"redis_maxmemory={megabytes}mb") if megabytes else ()
        return _good(self._run((PYINFRA, "-y", *data, "inventory.py", "deploy.py"), host)).seconds

    def ansible(self, files: Path, megabytes: int) -> Outcome:
        """The playbook, which takes the same files there."""
        over: Sequence[str] = ("-i", f"{self.pi.name},", "-c", "community.docker.docker")
        if self.home:
            key = str(self._key)
            over = ("-i", f"{self.pi.address},", "-u", "pi", "--private-key", key)
        said = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "files": str(files),
            "maxmemory": str(megabytes * 1024**2),
        }
        told = [word for name, value in said.items() for word in ("-e", f"{name}={value}")]
        playbook = _HERE / "ansible/playbook.yml"
        return _good(self._run((_VENV / "bin/ansible-playbook", *over, *told, playbook)))

    def baseline(self) -> float:
        """The questions of our deploy, in one round trip."""
        reach: Sequence[str | Path] = ("docker", "exec", self.pi.name)
        asked: Sequence[str] = NO_OP
        if self.home:
            known = ("-o", f"UserKnownHostsFile={self.home}/.ssh/known_hosts")
            reach = ("ssh", *_SSH, *known, "-i", self._key, f"pi@{self.pi.address}", "sudo")
            asked = (shlex.join(NO_OP),)
        return _good(self._run((*reach, *asked))).seconds

    @property
    def _key(self) -> Path:
        return (self.home or Path.home()) / ".ssh/id_ed25519"

    def _run(self, command: Sequence[str | Path], host: str = "") -> Outcome:
        if self.home:
            time.sleep(_BETWEEN)
        return run(
            *command,
            HOME=str(self.home or Path.home()),
            CELERY_PI_HOST=host,
            ANSIBLE_PIPELINING="True",
            ANSIBLE_HOST_KEY_CHECKING="False",
        )


def baseline_first(pi: VirtualPi, script: bytes) -> float:
    """A first deploy by the script."""
    start = time.monotonic()
    command = ("docker", "exec", "--interactive", pi.name, "sh", "-s")
    done = subprocess.run(command, input=script, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return time.monotonic() - start


def ensure_ansible() -> None:
    """Ansible and its collections, in an environment of their own."""
    stamp, wanted = _VENV / "installed", (_HERE / "requirements.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    _good(run("python3", "-m", "venv", _VENV))
    pip = (_VENV / "bin/python", "-m", "pip", "install", "--quiet")
    _good(run(*pip, "--disable-pip-version-check", "-r", _HERE / "requirements.txt"))
    stamp.write_text(wanted)


def ansible_version() -> str:
    """Of ansible-core, once it has been installed."""
    packages = [str(path) for path in _VENV.glob("lib/*/site-packages")]
    (found,) = distributions(name="ansible-core", path=packages)
    return found.version


def assert_active(pi: VirtualPi) -> None:
    """All the services run, whoever has deployed them."""
    states = pi.run("systemctl", "is-active", *UNITS, check=False).stdout.split()
    assert states == ["active"] * len(UNITS), dict(zip(UNITS, states, strict=False))


def _good(outcome: Outcome) -> Outcome:
    """It must have ended well; what it said last tells why not."""
    assert outcome.status == 0, outcome.output[-2000:]
    return outcome
