"""A directory of root's that holds a Python package, and nothing that is not of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import PurePosixPath

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation
from pyinfra.api.operation import OperationMeta

from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.plan import will
from celery_pi.remote import declare


class TreeFiles(FactBase[list[str]]):
    """Everything below the directories that is no directory; links are not followed."""

    default = list

    def command(self, directories: Sequence[str]) -> StringCommand:
        quoted = map(QuoteString, directories)
        # A missing directory is an answer, not an error.
        return StringCommand("find", *quoted, "! -type d 2>/dev/null || true")

    def process(self, output: list[str]) -> list[str]:
        return sorted(output)


def package_tree(name: str, directory: str, files: Sequence[ConfigFile]) -> OperationMeta:
    """The directory holds these files and nothing else but their bytecode, which root's Python
    writes beside them; modules of earlier versions are removed."""
    installed = config_files(name=name, files=files)
    paths = [file.path for file in files]
    _pruned(name=f"{name}: remove other modules", directories=[directory], keep=paths)
    return installed


def absent_trees(name: str, directories: Sequence[str]) -> OperationMeta:
    """The directories, which are root's and ours alone, are gone with all that is in them."""
    return _pruned(name=name, directories=directories, keep=[])


@operation()
def _pruned(directories: Sequence[str], keep: Sequence[str]) -> Generator[StringCommand]:
    found = host.get_fact(TreeFiles, directories=list(directories))
    stale = stale_files(found, keep)
    if not stale:
        host.noop(f"nothing else is in {' or '.join(directories)}")
        return
    for path in stale:
        will(host, "remove", path)
    declare(host, dict.fromkeys(stale))
    quoted = [QuoteString(directory) for directory in directories]
    yield StringCommand("rm -f --", *map(QuoteString, stale))
    # What is left then is kept, or empty.
    yield StringCommand("find", *quoted, "-depth -type d -empty -delete 2>/dev/null || true")


def stale_files(found: Sequence[str], keep: Sequence[str]) -> list[str]:
    """Of the files those that are neither to be kept nor the bytecode of one that is."""
    modules = {path.removesuffix(".py") for path in keep}
    return [path for path in found if path not in keep and _module(path) not in modules]


def _module(path: str) -> str:
    """Path, without `.py`, of the module whose bytecode the file is by its name; else nothing."""
    place = PurePosixPath(path)
    if place.parent.name != "__pycache__" or ".pyc" not in place.name:
        return ""
    return str(place.parent.parent / place.name.partition(".")[0])
