# Keep `.env`, which is standard input in base64, as it was before the first deploy.
# Uses: before, copy, path
#
# Who may read it is noted beside it. The copy is root's, where only root goes.
sent=$(cat)
if [ ! -e "$copy" ] && ! grep -qsxF -e "$path" "$before/ours"; then
  umask 077
  mkdir -p "$before" "${copy%/*}"
  if [ -z "$access" ]; then
    echo "$path" >>"$before/ours"
  else
    echo "$access $path" >>"$before/owners"
    printf '%s' "$sent" | base64 -d >"$copy.new"
    sync "$copy.new"
    mv "$copy.new" "$copy"
  fi
fi
