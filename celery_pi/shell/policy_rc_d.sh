# Body of /usr/sbin/policy-rc.d: exit status 101 for a unit that is not to start.
case $1 in --*) shift ;; esac
# shellcheck disable=SC2194  # the names are filled in
case " {not_starting} " in *" ${1%.service} "*) ;; *) exit 0 ;; esac
[ "$2" = start ] || exit 0
flock -n "{lock}" true || exit 101
