"""How the last deploys have left each file of ours; `celery-pi doctor` compares.

In /var/lib/celery-pi/declared on the Pi, a line each: path, mode, user, group and SHA-256, which is
a dash for a secret. A deploy of everything says it anew; one of a component adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra.api import StringCommand

from celery_pi.deploy_lock import DIRECTORY
from celery_pi.shell import assign

FILE = "/var/lib/celery-pi/declared"

# Written where it differs and not otherwise: a deploy that changes nothing spares the card.
NOTE = r"""
set -e
umask 022; mkdir -p "${file%/*}"  # nginx and the worker read what is beside it
umask 077; mkdir -p "$directory"
cat >"$directory/declared"
{
  awk -F '\t' 'NF > 1' "$directory/declared"
  [ -n "$whole" ] || [ ! -e "$file" ] ||
    awk -F '\t' 'NR == FNR { said[$1]; next } !($1 in said)' "$directory/declared" "$file"
} | LC_ALL=C sort >"$directory/merged"
if ! cmp -s "$directory/merged" "$file"; then
  cp "$directory/merged" "$file.new"
  sync "$file.new"
  mv "$file.new" "$file"
fi
rm "$directory/declared" "$directory/merged"
"""


def lines(files: Mapping[str, list[str] | None]) -> str:
    """What `noted` is sent; of a file that is not to be there, the path alone."""
    return "".join("\t".join([path, *(state or ())]) + "\n" for path, state in files.items())


def noted(whole: bool) -> StringCommand:
    """Command that keeps the lines of its standard input; of a `whole` deploy, those alone."""
    words = assign(directory=DIRECTORY, file=FILE, whole="yes" if whole else "")
    return StringCommand(words, NOTE)
