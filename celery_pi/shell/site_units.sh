# Print the units of the site that have to start again when `.env` changes.
# Uses: app, units
#
# Read from what is configured and not from what runs, so that one deploy finds what the next does.
for file in "$units"/*.service; do
  # shellcheck disable=SC2015  # either one that is not so
  [ -f "$file" ] && ! is_ours "$file" || continue
  grep -qE '^[[:space:]]*ExecStart=.*celery' -- "$file" && continue
  grep -qE "^[[:space:]]*(ExecStart|WorkingDirectory|EnvironmentFile)=-?(.*[ =])?$app(/|\$| )" \
    -- "$file" || continue
  name=${file##*/}
  case $(systemctl show -p Type -p UnitFileState -p ActiveState "$name") in
    *Type=oneshot*) ;;
    *=enabled* | *ActiveState=active*) echo "$name" ;;
  esac
done
for server in apache2 uwsgi; do
  grep -RqsF -e "$app" /etc/$server/*-enabled/ && systemctl -q is-enabled $server.service \
    2>/dev/null && echo "$server.service"
done
true  # none is an answer
