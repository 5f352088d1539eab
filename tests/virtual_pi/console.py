"""What the virtual Pi says and how it fails: progress lines, quiet commands, one error class."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

_TAIL_LINES = 15


class VirtualPiError(Exception):
    """The virtual Pi cannot do what was asked; the message is written for the person at the shell.

    `detail` holds what a failing command said last; it is shown below the message.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
        if detail:
            self.add_note(detail)  # a traceback shows it too


@contextmanager
def step(title: str, usually: str) -> Iterator[None]:
    """Print one line round a long step: the title, how long it usually takes, how long it took."""
    print(f"{title} ({usually}) ... ", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"failed after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        raise
    print(f"done in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def call(argv: Sequence[str], why: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command without a terminal and return its output; `why` opens the error if it fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
        )
    except OSError as error:
        raise VirtualPiError(f"{why}: {argv[0]} cannot be run ({error.strerror}).") from error
    if done.returncode != 0:
        raise VirtualPiError(f"{why}: {argv[0]} ended with {done.returncode}.", tail(done.stdout))
    return done.stdout


def tail(output: str, lines: int = _TAIL_LINES) -> str:
    """The last lines of a command's output, where its reason usually is."""
    return "\n".join(output.strip().splitlines()[-lines:])
