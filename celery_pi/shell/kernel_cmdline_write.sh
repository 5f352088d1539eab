# Replace the kernel's command line by standard input, which is in base64.
# Uses: digest, path
#
# The file lies on FAT, which has no owners, no modes and no journal: each step is on the card
# before the next, so that a power cut finds the old line or the new one. The digest is that of
# what was sent: a connection that broke must not leave half a line.
set -e
kept=$path.before-celery-pi
[ -e "$kept" ] || { cp "$path" "$kept.new"; sync "$kept.new"; mv -fT "$kept.new" "$kept"; }
base64 -d >"$path.new"
echo "$digest  $path.new" | sha256sum --check --quiet >&2
sync "$path.new"
mv -fT "$path.new" "$path"
sync -f "$path"
