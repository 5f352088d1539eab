"""Print a requirement file and what it includes, as JSON by path: twenty files of 1 MiB at most.

It is run as the owner of the environment, so that no link leads to what he cannot read.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import PurePosixPath

INCLUDED = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]*([^\s#]+)")
MOST = 20
LARGEST = 2**20  # characters of a file that are read


def main() -> None:
    texts: dict[str, str] = {}
    pending = [sys.argv[1]]
    while pending and len(texts) < MOST:
        path = os.path.normpath(pending.pop(0))
        if path in texts:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            continue
        with os.fdopen(descriptor, errors="replace") as file:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            texts[path] = file.read(LARGEST) if is_file else ""
        for line in texts[path].splitlines():
            if included := INCLUDED.match(line):
                pending.append(str(PurePosixPath(path).parent / included[1]))
    print(json.dumps(texts))


if __name__ == "__main__":
    main()
