# The persistent shell: run each command that standard input brings, until it ends.
# Uses: end
#
# Per command, standard input has a line with the sizes of its text and of its input, in bytes, and
# then both. Input that the command leaves unread is discarded. A line with the end marker follows
# its output, on standard output with the exit status, and on standard error.
finish() {
  printf '\n%s %s\n' "$end" "$1"
  printf '\n%s\n' "$end" >&2
}
finish 0
while read -r size sent; do
  asked=$(head -c "$size"; echo .)
  head -c "$sent" | {
    sh -c "${asked%.}"
    status=$?
    cat >/dev/null
    exit "$status"
  }
  finish "$?"
done
