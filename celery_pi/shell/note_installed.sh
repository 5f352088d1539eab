# `note_installed` adds packages that are about to be installed to the record.
# Uses: installed, new
#
# Before apt is called, so that what cuts it off leaves no package that nobody remembers.
note_installed() (
  set -e
  umask 022; mkdir -p "${installed%/*/*}"
  umask 077; mkdir -p "${installed%/*}"
  # All that was there, so that what comes along with ours is known from what was here.
  [ -e "$installed" ] ||
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' |
    sed -n 's/^installed //p' >"${installed%/*}/packages"
  {
    installed_by_us
    for p in $new; do
      case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
        '' | *' not-installed' | *' config-files') echo "$p" ;;
      esac
    done
  } | LC_ALL=C sort -u >"$installed.new"
  if cmp -s "$installed.new" "$installed"; then rm "$installed.new"; exit; fi
  sync "$installed.new"
  mv "$installed.new" "$installed"
)
