# Note what an environment of the owner's held before the first deploy.
# Uses: before, copy, venv
#
# An environment that we make is ours.
if [ ! -e "$copy" ] && ! grep -qsxF -e "$venv" "$before/ours"; then
  umask 077
  mkdir -p "${copy%/*}"
  if [ -z "$text" ]; then
    echo "$venv" >>"$before/ours"
  else
    printf '%s\n' "$text" >"$copy.new"
    sync "$copy.new"
    mv "$copy.new" "$copy"
  fi
fi
