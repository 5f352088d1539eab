# Reduce `units` and `paths` to what is there and was made by a deploy.
# Uses: directory, made
#
# Of what is there, what is ours. A unit is somebody else's when its file is, or when its package
# has one: that stays, whatever its name is.
is_owners() {
  case $1 in *celery-pi*) return 1 ;; esac
  [ -e "$directory/$1" ] || [ -L "$directory/$1" ] || {
    file=$(systemctl show -P FragmentPath "$1")
    case $file in '' | "$directory"/*) return 1 ;; *) return 0 ;; esac
  }
  ! is_ours "$directory/$1"
}
left='' ours=''
for unit in $units; do is_owners "$unit" || ours="$ours $unit"; done
units=${ours# }
for path in $paths; do
  if [ -e "$path" ] || [ -L "$path" ]; then
    case " $made " in *" $path "*) of=${path##*/}; of=${of#stamp-}
      case " $units " in *" $of "*) left="$left $path" ;; esac ;;
    *) ! is_ours "$path" || left="$left $path" ;; esac
  fi
done
paths=${left# }
