"""What each library's task does: it writes one byte to a file, by which its end is seen."""

import os

_FILE = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)


def done() -> None:
    os.write(_FILE, b".")
