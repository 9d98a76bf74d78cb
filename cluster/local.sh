#!/usr/bin/env bash
# One Ray on this machine, of one node or several simulated ones: a front of cluster/local.py that remembers where it is.
#
#     cluster/local.sh start [--nodes 3 --cpus 2 --gpus 1]
#     source out/local-ray.sh       # addresses and the token's path, for this shell
#     cluster/local.sh status
#     cluster/local.sh stop
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
exports=${DISTSEG_LOCAL_RAY:-$repository/out/local-ray.sh}
python=$repository/.venv/bin/python
[[ -x $python ]] || python=$(command -v python3)

fail() {
    echo "local.sh: $*" >&2
    exit 2
}

folder() {
    [[ -f $exports ]] || fail "$exports: no Ray was started; want 'cluster/local.sh start' first"
    sed -n 's/^export DISTSEG_LOCAL_RAY_DIR=//p' "$exports"
}

command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
start)
    [[ ! -e $exports ]] || fail "$exports: a Ray runs already, or was left; end it with 'cluster/local.sh stop'"
    mkdir -p "$(dirname -- "$exports")"
    lines=$("$python" "$repository/cluster/local.py" start "$@")
    (umask 077 && printf '%s\n' "$lines" >"$exports")
    echo "for this shell: source $exports" >&2
    ;;
status)
    found=$(folder)
    "$python" "$repository/cluster/local.py" status "$found"
    ;;
stop)
    found=$(folder)
    [[ ! -d $found ]] || "$python" "$repository/cluster/local.py" stop "$found"
    rm -f "$exports"
    ;;
*)
    fail "got '$command', want start [--nodes N --cpus C --gpus G], status or stop"
    ;;
esac
