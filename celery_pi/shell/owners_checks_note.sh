# Note the digest of configurations that were found good.
# Uses: stamp
#
# Where nothing has changed, nothing is written.
now=$(digest)
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$now" ]; then
  umask 022; mkdir -p "${stamp%/*}"
  printf '%s\n' "$now" >"$stamp.new" && mv -fT "$stamp.new" "$stamp"
fi
