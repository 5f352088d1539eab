#!/bin/bash
BACKUP_DIR="/var/backups/redis"
DATE=$(date +%Y%m%d_%H%M%S)

mkdir -p "$BACKUP_DIR"

# Déclencher une sauvegarde RDB
redis-cli -a "R3dis-password-of-the-owner-2718281828" BGSAVE

# Attendre que la sauvegarde soit terminée
sleep 5

# Copier le dump.rdb
cp /var/lib/redis/dump.rdb "$BACKUP_DIR/dump_$DATE.rdb"

# Conserver seulement les 7 dernières sauvegardes
find "$BACKUP_DIR" -name "dump_*.rdb" -mtime +7 -delete

echo "Sauvegarde Redis terminée : dump_$DATE.rdb"
