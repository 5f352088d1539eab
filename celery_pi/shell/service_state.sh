# Print the state of a unit, the watched paths now, and those it was started with.
# Uses: record, unit
#
# A unit that is about to start, as one that goes down and up with another is when that one has just
# been started again, is waited for, up to 10 s.
show() {
  shown=$(systemctl show -p ActiveState -p UnitFileState -p NeedDaemonReload -p TimeoutStopUSec \
    -p Job "$unit")
}
is_coming() {
  case $shown in
    *ActiveState=activating*) true ;;
    *ActiveState=inactive*) case $shown in *Job=[1-9]*) true ;; *) false ;; esac ;;
    *) false ;;
  esac
}
show; looks=0
while is_coming && [ $looks -lt 50 ]; do sleep 0.2; show; looks=$((looks + 1)); done
echo "$shown"
echo now; snapshot
echo "then"; [ ! -e "$record" ] || { echo started; cat "$record"; }
