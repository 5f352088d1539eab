"""Tasks that try what a sandbox may refuse. Each answers `ok`, or with the refusal's name."""

import ctypes
import errno
import logging
import mmap
import socket
import subprocess
import sys
from pathlib import Path

from celery import shared_task

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
PTRACE_TRACEME = 0

SYSTEM_CALLS = {
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    "ptrace": lambda: libc.ptrace(PTRACE_TRACEME, 0, None, None),
    "unshare": lambda: libc.unshare(CLONE_NEWUSER),
}


def answer(error: OSError) -> str:
    return errno.errorcode.get(error.errno, str(error))


@shared_task
def write(path: str) -> str:
    """Write a new file there, and leave it."""
    try:
        Path(path).write_text("written\n")
    except OSError as error:
        return answer(error)
    return "ok"


@shared_task
def call(name: str) -> str:
    """Make a system call; in a process of its own, which may be killed for it."""
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import calling; print(calling({name!r}))"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or f"status {done.returncode}"


def calling(name: str) -> str:
    ctypes.set_errno(0)
    if SYSTEM_CALLS[name]() == -1:
        return errno.errorcode[ctypes.get_errno()]
    return "ok"


@shared_task
def connect(host: str, port: int) -> str:
    """Open a TCP connection."""
    try:
        socket.create_connection((host, port), 5).close()
    except OSError as error:
        return answer(error)
    return "ok"


@shared_task
def run(*argv: str) -> str:
    """Run a program and return what it prints, or `ok`."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as error:
        return answer(error)
    return f"status {done.returncode}" if done.returncode else done.stdout.strip() or "ok"


@shared_task
def callback() -> list[int]:
    """Sort with a comparison in Python that C calls, for which libffi makes machine code."""
    number = ctypes.POINTER(ctypes.c_int)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, number, number)
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    libc.qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), kind(lambda a, b: a[0] - b[0]))
    return list(numbers)


@shared_task
def machine_code() -> str:
    """Map memory that is writable and executable, as a compiler at run time does."""
    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError as error:
        return answer(error)
    return "ok"


@shared_task
def burst(name: str, lines: int) -> None:
    """Log that many lines as fast as it goes: the name and a number each."""
    logger = logging.getLogger(__name__)
    for number in range(lines):
        logger.warning("%s %d", name, number)
