"""What was deployed, down to the last byte: the source, kept by git on the machine that deploys.

Also one with changes that nobody has committed, which a checkout with values of its own site is. No
branch nor index is touched; `git for-each-ref refs/celery-pi` lists what is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from celery_pi.render import ROOT

PARTS = (
    *("celery_pi", "tasks", "files", "templates", "group_data"),
    *("deploy.py", "rollback.py", "inventory.py", "config.py"),
)
KEPT_AS = "refs/celery-pi/"
NOTE = ".celery-pi-source.json"  # in a tree that was laid out: whence it came


class Source(NamedTuple):
    """Commit, with `-dirty` where the tree is another; digest of the tree. Both may be unknown."""

    commit: str = ""
    tree: str = ""


class NoSource(Exception):
    """Why git cannot say or give it."""


def kept_source(host: str, root: Path = ROOT) -> Source:
    """The source below root, which git keeps from now on for that host. Raises NoSource."""
    note = root / NOTE
    if note.exists():
        return Source(**json.loads(note.read_text()))
    commit = _git(root, "rev-parse", "HEAD").strip()
    parts = [part for part in PARTS if (root / part).exists()]
    with TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}
        _git(root, "add", "--", *parts, **index)
        tree = _git(root, "write-tree", **index).strip()
    _git(root, "update-ref", _kept_as(host, tree), tree)
    changed = _git(root, "status", "--porcelain", "--", *PARTS)
    return Source(f"{commit}-dirty" if changed else commit, tree)


def lay_out(host: str, source: Source, directory: Path, root: Path = ROOT) -> None:
    """Put the source that is kept for that host into the directory. Raises NoSource.

    The digest may be of the host's own making: it is no option, and of no tree that was not
    deployed to it. Another one's source names passwords that are not for it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    packed = _run(root, "archive", "--format=tar", _kept_as(host, source.tree)).stdout
    subprocess.run(["tar", "-x", "-C", directory], input=packed, check=True)
    (directory / NOTE).write_text(json.dumps(source._asdict()))


def _kept_as(host: str, tree: str) -> str:
    """Name in git: the host's as far as git takes it, and a digest of all of it."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", host).strip("-")
    return f"{KEPT_AS}{plain}-{hashlib.sha256(host.encode()).hexdigest()[:8]}/{tree}"


def _git(root: Path, *arguments: str, **environment: str) -> str:
    return _run(root, *arguments, **environment).stdout.decode()


def _run(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise NoSource(f"git cannot be run: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NoSource(said[-1] if said else f"git {arguments[0]} ended with {done.returncode}")
    return done
