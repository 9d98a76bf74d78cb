#!/usr/bin/env bash
# Starts Ray on one node of a cluster, the way that all our launchers do: with the token, and nothing sent home.
#
#     cluster/node.sh head [option of `ray start`...]
#     cluster/node.sh worker --address=HEAD:6379 [option of `ray start`...]
#
# The token is read from RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token. The dashboard listens on loopback unless
# DISTSEG_DASHBOARD_HOST says otherwise.
set -euo pipefail

fail() {
    echo "node.sh: $*" >&2
    exit 2
}

role=${1:-}
[[ $# -eq 0 ]] || shift
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[[ -s $token ]] || fail "$token: no token there; make one with 'ray get-auth-token --generate', and copy it to each node"
export RAY_AUTH_TOKEN_PATH=$token RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN OMP_NUM_THREADS

# Jobs run `python` and `distseg` from the path of the node that they start on.
programs=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
[[ ! -d $programs ]] || export PATH=$programs:$PATH
ulimit -n 65536 2>/dev/null || true # Ray keeps many sockets open

case $role in
head) exec ray start --head --port=6379 "--dashboard-host=${DISTSEG_DASHBOARD_HOST:-127.0.0.1}" "$@" ;;
worker) exec ray start "$@" ;;
*) fail "got '$role', want head or worker" ;;
esac
