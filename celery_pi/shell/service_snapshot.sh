# `snapshot` prints time and digest of each of the watched paths.
# Uses: watch
#
# Of all paths at once: processes are what costs time on a Pi. What is missing has no line, what is
# no regular file only a time, as a directory has. Times are kept to the second because a copy of
# the system may drop what is below it. Some of the paths are in others' directories, where root
# reads nothing: what is not root's is read by whoever owns it, 64 MiB of it, for 20 s at most.
snapshot() {
  # shellcheck disable=SC2086  # a list of words
  find $watch -maxdepth 0 -printf 'time %Ts %p\n' 2>/dev/null || true  # missing is an answer
  # shellcheck disable=SC2086  # a list of words
  timeout -s KILL 20 find $watch -maxdepth 0 -uid 0 -xtype f -size -131073 \
    -exec sha256sum -- {} + 2>/dev/null || true  # the same
  # shellcheck disable=SC2086  # a list of words
  find $watch -maxdepth 0 ! -uid 0 -xtype f -printf '%U %G %p\n' 2>/dev/null |
    while read -r uid gid path; do
      digest=$(timeout -s KILL 20 setsid -w env -i setpriv --reuid "$uid" --regid "$gid" \
        --clear-groups head -c 67108864 -- "$path" </dev/null 2>/dev/null |
        timeout -s KILL 25 sha256sum)
      echo "${digest%% *}  $path"
    done
}
