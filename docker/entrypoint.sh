#!/usr/bin/env bash
# What a container does: entrypoint.sh head|worker|serve [option...], or any other command.
#
# Secrets are files: the token of Ray in RAY_AUTH_TOKEN_PATH, and PostgreSQL's password, where there is one, in
# DISTSEG_POSTGRES_PASSWORD_FILE. None is put into an argument or into the environment.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
head_host=${DISTSEG_HEAD_HOST:-head}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-/run/secrets/ray_token}
password=${DISTSEG_POSTGRES_PASSWORD_FILE:-/run/secrets/postgres_password}

# Every attempt of a job opens the queue's store: the dispatcher leaves it the address, and libpq reads the password here.
if [[ -r $password ]]; then
    escaped=$(sed -e 's/[\\:]/\\&/g' "$password")
    (umask 077 && printf '*:*:*:*:%s\n' "$escaped" >"$HOME/.pgpass")
fi

role=${1:-}
case $role in
head)
    shift
    # Other containers reach the dashboard, with the token. Drivers run here; CPUs and GPUs are the workers'.
    DISTSEG_DASHBOARD_HOST=0.0.0.0 exec "$here/../cluster/node.sh" head --block --num-cpus=0 --num-gpus=0 "$@"
    ;;
worker)
    shift
    exec "$here/../cluster/node.sh" worker --block "--address=$head_host:6379" "$@"
    ;;
serve)
    shift
    exec distseg jobs serve --address "http://$head_host:8265" "$@"
    ;;
"") exec distseg --help ;;
*) exec "$@" ;;
esac
