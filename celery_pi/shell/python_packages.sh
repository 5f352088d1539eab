# Print the state of a virtual environment and the digest of the app's requirements.
# Uses: packages, record
requirements=$1
refuse() { echo "celery-pi: $requirements $1" >&2; exit 1; }
# Without ensurepip, which is Debian's python3-venv, none can be made: an answer, and no error.
# shellcheck disable=SC2015  # echo does not fail
ready && echo "ready" || { python3 -I -c "import ensurepip" 2>/dev/null && echo "able"; }
[ ! -f "$record" ] || echo "record $(head -c 64 "$record")"
if [ -e "$requirements" ]; then
  [ -f "$requirements" ] || refuse "is no regular file"
  [ "$(stat -Lc %s "$requirements")" -le 1048576 ] || refuse "is larger than 1 MiB"
  digest=$(sha256sum <"$requirements") || refuse "cannot be read by $(id -un)"
  echo "requirements ${digest%% *}"
fi
for info in "$packages"/*.dist-info; do [ ! -d "$info" ] || echo "installed ${info##*/}"; done
