"""The source of a deploy: a commit in git on the machine that deploys. git is read, never written.

A rollback lays the source out again from its commit. A source with changes that are not committed
can be deployed, and is recorded as `-dirty`, but nobody can go back to it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from celery_pi.render import ROOT

# What is deployed, as git's pathspecs. A change of anything else leaves the source as it is.
PARTS = (
    *("celery_pi", "celery_pi-*.dist-info", "tasks", "packages", "files", "templates"),
    *("group_data", "deploy.py", "rollback.py", "inventory.py", "config.py"),
)
NOTE = ".celery-pi-source.json"  # in a source that was laid out: its commit
DIRTY = "-dirty"


class NoSource(Exception):
    """Why git does not have it."""


def deployed_source(root: Path = ROOT) -> str:
    """The commit of the source below root, with `-dirty` if the source is another. Raises NoSource
    if git does not know it."""
    note = root / NOTE
    if note.exists():
        return str(json.loads(note.read_text())["commit"])
    commit = _git(root, "rev-parse", "HEAD").strip()
    is_changed = bool(_git(root, "status", "--porcelain", "--", *PARTS))
    return f"{commit}{DIRTY}" if is_changed else commit


def lay_out(commit: str, directory: Path, root: Path = ROOT) -> None:
    """Put the source of the commit into the directory. Raises NoSource.

    A Pi names the commit, so it is taken only from the history of what is checked out here: a
    branch for another machine may name passwords that are not for this one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    try:
        _git(root, "merge-base", "--is-ancestor", commit, "HEAD")
    except NoSource as error:
        raise NoSource("it is not in the history of what is checked out here") from error
    packed = _run(root, "archive", "--format=tar", commit).stdout
    subprocess.run(["tar", "-x", "-C", directory], input=packed, check=True)
    (directory / NOTE).write_text(json.dumps({"commit": commit}))


def _git(root: Path, *arguments: str) -> str:
    return _run(root, *arguments).stdout.decode()


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # `git status` else writes the index
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise NoSource(f"git cannot be run: {error.strerror}") from error
    if process.returncode:
        errors = process.stderr.decode(errors="replace").strip().splitlines()
        raise NoSource(
            errors[-1] if errors else f"git {arguments[0]} ended with {process.returncode}"
        )
    return process
