# Print the owner's requirement files, and what pip would install.
# Uses: venv, words
#
# Without an environment the pip that would be put into a new one, which Debian keeps as a wheel,
# resolves for a directory that is never made; Debian's own Python is the one of the environment.
collect=$1 requirements=$2 ours=$3
shift 3
# shellcheck disable=SC2164  # else pip runs in the present directory
cd "${venv%/*}"
/usr/bin/python3 -I -S -c "$collect" "$requirements"
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
export TMPDIR="$scratch"
for wheel in /usr/share/python-wheels/pip-*.whl; do :; done
set -- ${ours:+--only-binary "$ours"} "$@"
if ready; then
  # shellcheck disable=SC2086  # a list of words
  set -- "$venv/bin/python" -I -m pip install $words --dry-run "$@"
elif [ -e "$wheel" ]; then
  # shellcheck disable=SC2086  # a list of words
  set -- /usr/bin/python3 -I "$wheel/pip" install $words --dry-run --target "$scratch/none" "$@"
else
  echo "pip none"
  exit 0
fi
"$@" >"$scratch/output" 2>&1 </dev/null
echo "pip $?"
cat "$scratch/output"
