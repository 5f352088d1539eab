# Start a unit again as its package has it, or stop it where `$check` fails.
# Uses: check, record, unit
#
# The record goes last: while it is there, the next run finds something to do.
set -e
if (eval "$check") >/dev/null 2>&1; then
  systemctl restart "$unit"
else
  systemctl disable --quiet --now "$unit"
fi
rm -f "$record"
