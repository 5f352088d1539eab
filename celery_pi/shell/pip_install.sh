# Install the app's packages with pip; standard input has our wheels and their digests.
# Uses: record, venv, words
#
# What is ours comes first, by the digests of its wheels; what it needs in which version beside the
# owner's, pip finds out as without it, and refuses what contradicts itself: where there is an
# environment already, before anything in it is changed.
set -e
digest=$1 ours=$2
shift 2
cd "${venv%/*}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/locked"
install() {
  # shellcheck disable=SC2086  # a list of words
  "$venv/bin/python" -I -m pip install $words --quiet "$@" >&2
}
if ready; then dry=--dry-run; else dry=; python3 -I -m venv "$venv" >&2; fi
set -- ${ours:+--only-binary "$ours"} "$@"
if grep -q == "$scratch/locked"; then
  [ -z "$dry" ] || install "$dry" "$@"
  install --no-deps --require-hashes --only-binary :all: -r "$scratch/locked"
fi
install "$@"
printf '%s\n' "$digest" >"$record.new"
mv -fT "$record.new" "$record"
