# `keep PATH`: copy a file of the owner's before it is changed for the first time.
# Uses: before
#
# `keep PATH` before it is changed; in directories of root's.
keep() {
  case $1 in /run/*) return ;; esac
  # Others read what is beside it.
  [ -d "$before" ] || (umask 022; mkdir -p "${before%/*}"; umask 077; mkdir -p "$before")
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    grep -qxF -e "$1" "$before/ours" 2>/dev/null || printf '%s\n' "$1" >>"$before/ours"
  elif [ ! -e "$before/files$1" ] && [ ! -L "$before/files$1" ] && ! is_ours "$1"; then
    mkdir -p "$before/files${1%/*}"
    rm -rf "$before/copying"
    cp -a -T -- "$1" "$before/copying"
    [ -L "$before/copying" ] || sync "$before/copying"
    mv -T -- "$before/copying" "$before/files$1"
  fi
}
