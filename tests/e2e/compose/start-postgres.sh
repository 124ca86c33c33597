#!/usr/bin/env bash
# Make the database on the first start, as the official image does, then serve it.
set -euo pipefail
data=/var/lib/postgresql/data/cluster
if [[ ! -d $data ]]; then
  initdb -D "$data" -U "$POSTGRES_USER" --auth-host=scram-sha-256 --pwfile=<(echo "$POSTGRES_PASSWORD") >/dev/null
  echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
  pg_ctl -D "$data" -o "-c listen_addresses=" -w start >/dev/null
  psql -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE $POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*.sql; do psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$script"; done
  pg_ctl -D "$data" -w stop >/dev/null
fi
exec postgres -D "$data" -c listen_addresses='*'
