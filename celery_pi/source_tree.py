"""What was deployed, down to the last byte: the source, kept by git on the machine that deploys.

Also one with changes that nobody has committed, which a checkout with values of its own site is. No
branch nor index is touched; `git for-each-ref refs/celery-pi` lists what is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from celery_pi.sources import ROOT

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


def kept_source(root: Path = ROOT) -> Source:
    """The source below root, which git keeps from now on. Raises NoSource."""
    note = root / NOTE
    if note.exists():
        return Source(**json.loads(note.read_text()))
    commit = _git(root, "rev-parse", "HEAD").strip()
    parts = [part for part in PARTS if (root / part).exists()]
    with TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}
        _git(root, "add", "--", *parts, **index)
        tree = _git(root, "write-tree", **index).strip()
    _git(root, "update-ref", KEPT_AS + tree, tree)
    changed = _git(root, "status", "--porcelain", "--", *PARTS)
    return Source(f"{commit}-dirty" if changed else commit, tree)


def lay_out(source: Source, directory: Path, root: Path = ROOT) -> None:
    """Put the kept source into the directory. Raises NoSource.

    The digest may be of anybody's making: it is no option, and of no other tree than a kept one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    packed = _run(root, "archive", "--format=tar", KEPT_AS + source.tree).stdout
    subprocess.run(["tar", "-x", "-C", directory], input=packed, check=True)
    (directory / NOTE).write_text(json.dumps(source._asdict()))


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
