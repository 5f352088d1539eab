# Print the answers to all facts of the last deploy.
# Uses: directory, end, file, known
#
# The first line is the digest of the file. Answers may hold secrets, so they are kept in memory.
[ -e "$file" ] || exit 0
sha256sum <"$file"
umask 077
mkdir -p "$directory"
aside=$(mktemp -d "$directory/facts.XXXXXX") || exit 1
trap 'rm -r "$aside"' EXIT
umask 022
sh "$file" "$end" "$known" 1 >"$aside/out" 2>"$aside/err" </dev/null &
sh "$file" "$end" "$known" 0
wait
cat "$aside/out"
cat "$aside/err" >&2
