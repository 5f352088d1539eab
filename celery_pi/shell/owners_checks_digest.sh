# `digest` of all files that the checkers look at.
# Uses: candidate, paths
listing() {
  # shellcheck disable=SC2086  # a list of words
  find $paths -printf '%p %i %s %C@\n' 2>/dev/null | LC_ALL=C sort
  printf '%s' "$candidate"
}
digest() { listing | sha256sum | cut -d' ' -f1; }
