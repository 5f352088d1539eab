#!/bin/sh
# The machine as its owner has made it by hand, from the guide; run once, as root, on a plain Pi,
# where the project and his own files lie already.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
app=/var/www/html/Observations_Nids

# His own configurations lie there before the packages come.
apt-get update -q
apt-get install -q -y -o Dpkg::Options::=--force-confold apache2 libapache2-mod-wsgi-py3 \
  mariadb-server redis-server fail2ban ufw cron logrotate openssl

sysctl -q --load=/etc/sysctl.d/10-ipv6.conf

# -- the project
install -d -o www-data -g www-data -m 0755 "$app/logs" "$app/journaux" "$app/media" "$app/static"
chown -R www-data:www-data "$app"
chmod 0600 "$app/.env"
as_owner() { runuser -u www-data -- env HOME=/tmp/pip "$@"; }
as_owner python3 -m venv "$app/.venv"
as_owner "$app/.venv/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check \
  -r "$app/requirements-prod.txt"
rm -rf /tmp/pip

# -- MariaDB
mariadb <<'SQL'
CREATE DATABASE observations_nids CHARACTER SET utf8mb4;
CREATE USER nids@localhost IDENTIFIED BY 'database-password-of-the-stand-in-31415';
GRANT ALL ON observations_nids.* TO nids@localhost;
SQL
cd "$app"
as_owner .venv/bin/python manage.py migrate --verbosity 0
as_owner sh -c 'umask 027; printf "%s\n" "-- MARKER-OF-THE-DUMP-1414213562" >sauvegarde.sql
  printf "SQLite format 3 MARKER-OF-THE-DATABASE-1732050807\n" >db.sqlite3'
mariadb-dump --skip-dump-date observations_nids | as_owner sh -c 'cat >>sauvegarde.sql'

# -- Redis, by the guide: each directive in the place of Debian's
conf=/etc/redis/redis.conf
sed -i -E '/^(bind|protected-mode|save|maxmemory|maxmemory-policy) /d' "$conf"
cat >>"$conf" <<'CONF'
bind 127.0.0.1 ::1
protected-mode yes
requirepass R3dis-password-of-the-owner-2718281828
save 900 1
save 300 10
save 60 10000
maxmemory 256mb
maxmemory-policy allkeys-lru
rename-command FLUSHDB ""
rename-command FLUSHALL ""
rename-command CONFIG ""
rename-command SHUTDOWN ""
rename-command DEBUG ""
CONF
systemctl restart redis-server

# -- Apache
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=nids.example -quiet \
  -addext subjectAltName=DNS:nids.example,DNS:raspberrypi \
  -keyout /etc/ssl/private/observations_nids.key -out /etc/ssl/certs/observations_nids.pem
chmod 0600 /etc/ssl/private/observations_nids.key
a2enmod -q ssl macro
a2dissite -q 000-default
a2ensite -q observations_nids
apache2ctl -t
systemctl restart apache2

# -- Celery's units
systemd-tmpfiles --create /etc/tmpfiles.d/celery.conf
systemctl daemon-reload
systemctl enable --now celery-worker celery-beat celery-flower

# -- backups, as in the guide
chmod 0755 /usr/local/bin/backup-redis.sh
install -d -o redis -g redis -m 0700 /var/backups/redis
echo '# Sauvegarde Redis quotidienne à 2h du matin
0 2 * * * /usr/local/bin/backup-redis.sh >> /var/log/redis-backup.log 2>&1' | crontab -

# -- bans; with the guide's own filter fail2ban does not start, and he has not looked
systemctl restart fail2ban || true

# -- the firewall
ufw allow 22/tcp
ufw allow 80/tcp
ufw allow 443/tcp
ufw allow 8123/tcp comment 'Home Assistant'
ufw --force enable

apt-get clean
rm -rf /var/lib/apt/lists/*
