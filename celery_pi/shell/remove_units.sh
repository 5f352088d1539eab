# Stop, disable and remove units and files, unless `$check` fails.
# Uses: check, paths
#
# The files go last but for the reload: while one is left, the next run finds something to do.
set -e
(eval "$check") >&2 || exit 1
for unit in $units; do
  systemctl disable --quiet --now "$unit" 2>/dev/null || true  # it may be half gone already
done
# shellcheck disable=SC2086  # a list of words
rm -df $paths  # of directories, an empty one
for path in $paths; do  # what root's Python has compiled of it
  case $path in *.py) name=${path##*/}; rm -f "${path%/*}/__pycache__/${name%.py}".*.pyc ;; esac
done
systemctl daemon-reload
# Without a name it means all units; a unit that has not failed is an error to it.
# shellcheck disable=SC2086  # a list of words
[ -z "$units" ] || systemctl reset-failed $units 2>/dev/null || true
