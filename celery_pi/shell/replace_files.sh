# `replace` puts what standard input brings at `$path`, whole or not at all.
# Uses: check, mode, owner, path, sent, size
#
# The candidate lies beside its target, so that the last step is a rename and never a copy, and
# in a folder of its own, so that it bears the target's name: checkers go by names (`.service`).
# What a run that was cut off has left there, the next one removes. What was cut off on its way has
# another size.
trap 'rm -rf "$new"' EXIT
replace() {
umask 022; mkdir -p "${path%/*}"; umask 077
new=${path%/*}/.celery-pi.new
rm -rf "$new"; mkdir "$new"
NEW=$new/${path##*/}
head -c "$sent" | base64 -d >"$NEW"
[ "$(stat -c %s "$NEW")" = "$size" ] || { echo "$path was cut off on its way" >&2; exit 1; }
chown "$owner" "$NEW"; chmod "$mode" "$NEW"
eval "$check" </dev/null >&2 || exit 1
keep "$path"
sync "$NEW"; mv -fT "$NEW" "$path"
rm -rf "$new"
}
