#!/usr/bin/env bash
#SBATCH --job-name=distseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=distseg-%j.out
# A Ray of its own inside a Slurm allocation, for the length of one command:
#
#     sbatch --nodes=4 --gpus-per-node=4 cluster/slurm.sh distseg tune SEARCH --data /shared/shards
#
# SIGUSR1 (two minutes before the time limit; at preemption, where the site sets send_user_signal) ends the command, which
# keeps a checkpoint, and puts the job back into Slurm's queue. It then goes on: `distseg tune` finds its study by
# DISTSEG_JOB_ID, `distseg train` takes --resume.
set -euo pipefail

fail() {
    echo "slurm.sh: $*" >&2
    exit 2
}

[[ $# -gt 0 ]] || fail "no command; want: sbatch cluster/slurm.sh COMMAND [ARGUMENT...]"
: "${SLURM_JOB_ID:?no Slurm allocation; start it with sbatch}" "${SLURM_JOB_NODELIST:?}" "${SLURM_JOB_NUM_NODES:?}"
command -v ray >/dev/null || fail "'ray' is not on PATH; activate the environment that holds distseg, then sbatch"

nodes=$SLURM_JOB_NUM_NODES
head_host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:?}}
start_s=${DISTSEG_START_S:-300} # until all nodes are there
grace_s=${DISTSEG_GRACE_S:-90}  # for a last checkpoint, before SIGKILL
base=$((20000 + SLURM_JOB_ID % 1000 * 10)) # allocations that share a host differ
temp=/tmp/ray-$SLURM_JOB_ID                # short: Ray keeps sockets there; on each node's own disk
export DISTSEG_HOME=${DISTSEG_HOME:-$HOME/.distseg}
own=$DISTSEG_HOME/slurm/$SLURM_JOB_ID

mkdir -p "$DISTSEG_HOME/slurm"
(umask 077 && mkdir -p "$own" && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$own/auth_token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$own/auth_token RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK=$cpus # a step does not inherit it
unset RAY_AUTH_TOKEN RAY_ADDRESS OMP_NUM_THREADS

steps=()
command_pid=
signalled=
kill_at=

# A step that holds nodes: srun's own options, then '--', then those of `ray start`.
step() {
    local srun=()
    while [[ $1 != -- ]]; do
        srun+=("$1")
        shift
    done
    shift
    # shellcheck disable=SC2016 # the shell on the node expands them
    srun --ntasks-per-node=1 --kill-on-bad-exit=0 --output="$own/%N.log" "${srun[@]}" bash -c '
        [[ -r $RAY_AUTH_TOKEN_PATH ]] || { echo "$RAY_AUTH_TOKEN_PATH: not there; DISTSEG_HOME must be shared"; exit 2; }
        exec ray start --block --log-color=false "$@"
    ' ray-node "$@" "--temp-dir=$temp" "--num-cpus=$cpus" \
        --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 &
    steps+=("$!")
}

steps_run() {
    local pid
    for pid in "${steps[@]}"; do
        kill -0 "$pid" 2>/dev/null || return 1
    done
}

# Waits until "$@" succeeds; ends the job when a node has ended or time is up.
until_true() {
    local deadline=$((SECONDS + start_s))
    until "$@"; do
        if ! steps_run || ((SECONDS > deadline)); then
            tail -n 20 "$own"/*.log >&2 || true
            echo "slurm.sh: not all of $nodes nodes started within $start_s s; logs: $own" >&2
            exit 1
        fi
        sleep 0.5
    done
}

# shellcheck disable=SC2329 # called through until_true
all_nodes() {
    [[ $(python - "$1" <<'PYTHON'
import sys

from ray.util.state import list_nodes

try:
    print(len(list_nodes(address=sys.argv[1], filters=[("state", "=", "ALIVE")], timeout=5)))
except Exception:  # the dashboard is not up yet
    print(0)
PYTHON
    ) -ge $nodes ]]
}

# shellcheck disable=SC2329 # called by a trap, as is the next one
clean_up() {
    trap '' USR1 TERM
    [[ -z $command_pid ]] || kill -KILL -- "-$command_pid" 2>/dev/null || true
    ((${#steps[@]} == 0)) || kill -TERM "${steps[@]}" 2>/dev/null || true
    wait "${steps[@]}" 2>/dev/null || true
    srun --ntasks-per-node=1 --overlap rm -rf "$temp" || true
    rm -f "$own/auth_token"
}

# What a signal asks for: the command ends by itself, and may keep a checkpoint first.
# shellcheck disable=SC2329
end_command() {
    signalled=$1
    kill_at=$((SECONDS + grace_s))
    echo "slurm.sh: SIG$1: ending the command, which has $grace_s s for a last checkpoint" >&2
    if [[ -z $command_pid ]]; then # nodes are starting still
        [[ $1 != USR1 ]] || scontrol requeue "$SLURM_JOB_ID"
        exit 1
    fi
    kill -TERM -- "-$command_pid" 2>/dev/null || true
}

trap clean_up EXIT
trap 'end_command USR1' USR1
trap 'end_command TERM' TERM

step --nodes=1 --nodelist="$head_host" -- --head "--port=$base" "--ray-client-server-port=$((base + 1))" \
    --dashboard-host=127.0.0.1 "--dashboard-port=$((base + 2))"
until_true test -s "$temp/ray_current_cluster" # this script runs on the first node, as the head does
RAY_ADDRESS=$(<"$temp/ray_current_cluster")
export RAY_ADDRESS RAY_API_SERVER_ADDRESS=http://127.0.0.1:$((base + 2))
if ((nodes > 1)); then
    step "--nodes=$((nodes - 1))" --exclude="$head_host" -- "--address=$RAY_ADDRESS"
fi
until_true all_nodes "$RAY_API_SERVER_ADDRESS"
echo "slurm.sh: Ray of $nodes nodes at $RAY_ADDRESS; logs: $own" >&2

export DISTSEG_JOB_ID=slurm-$SLURM_JOB_ID DISTSEG_JOB_ATTEMPT=$((${SLURM_RESTART_COUNT:-0} + 1))
set -m # a process group of its own, which is signalled as a whole
"$@" &
command_pid=$!
set +m
status=0
wait "$command_pid" || status=$? # until it has ended, or a trap has run
if [[ -n $signalled ]]; then
    while kill -0 "$command_pid" 2>/dev/null; do
        ((SECONDS < kill_at)) || kill -KILL -- "-$command_pid" 2>/dev/null || true
        sleep 0.2
    done
    status=0
    wait "$command_pid" || status=$?
fi
command_pid=
if [[ $signalled == USR1 && $status -ne 0 ]]; then
    echo "slurm.sh: back into the queue; the next attempt goes on from the last checkpoint" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
