"""A directory of ours that holds the files of one package, and no other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import PurePosixPath

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation
from pyinfra.api.exceptions import OperationError

from celery_pi.plan import will
from celery_pi.shell import declare

OURS = PurePosixPath("/usr/local/lib/celery-pi")


class Paths(FactBase[list[str]]):
    """Everything at and below the paths, links not followed, read in one command."""

    default = list

    def command(self, paths: Sequence[str]) -> StringCommand:
        quoted = [QuoteString(path) for path in paths]
        # A missing one is an answer, not an error.
        return StringCommand("find", *quoted, "2>/dev/null || true")

    def process(self, output: list[str]) -> list[str]:
        return output


@operation()
def extra_files_absent(
    directory: str, files: Sequence[str], former: Sequence[str] = ()
) -> Generator[StringCommand]:
    """Below the directory, which is root's, nothing is left but these files and the bytecode that
    Python has made of them; nor is anything at the former paths.

    Raises ValueError for a path that is not below /usr/local/lib/celery-pi, and OperationError if
    the machine answers with a path that is neither below the directory nor a former one.
    """
    for path in (directory, *former):
        if OURS not in PurePosixPath(path).parents or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{path} is not below {OURS}")
    present = host.get_fact(Paths, paths=[directory, *former])
    allowed = {PurePosixPath(path) for path in (directory, *former)}
    for path in present:
        if allowed.isdisjoint(_with_parents(path)):
            raise OperationError(f"{path} was found, which is not in {directory}")
    extra = extra_paths(present, directory, files)
    declare(host, dict.fromkeys([*former, *extra]))
    if not extra:
        host.noop(f"{directory} holds nothing but what belongs there")
        return
    for path in extra:
        will(host, "remove", path)
    yield StringCommand("rm -rf --", *[QuoteString(path) for path in extra])


def _with_parents(path: str) -> set[PurePosixPath]:
    pure = PurePosixPath(path)
    return set() if ".." in pure.parts else {pure, *pure.parents}


def extra_paths(present: Sequence[str], directory: str, files: Sequence[str]) -> list[str]:
    """Of the paths that were found, those to remove; what lies in one of them goes with it."""
    kept = {PurePosixPath(file) for file in files}
    kept |= {parent for file in kept for parent in file.parents} | {PurePosixPath(directory)}
    extra = {path for path in map(PurePosixPath, present) if path not in kept}
    extra -= {path for path in extra if _is_bytecode(path, kept)}
    return sorted(str(path) for path in extra if extra.isdisjoint(path.parents))


def _is_bytecode(path: PurePosixPath, kept: set[PurePosixPath]) -> bool:
    """Whether it is what Python has made of a kept module, or the directory with it."""
    if path.name == "__pycache__":
        return path.parent in kept
    source = path.parent.with_name(f"{path.name.partition('.')[0]}.py")
    return path.parent.name == "__pycache__" and path.suffix == ".pyc" and source in kept
