#!/usr/bin/env bash
# Train with torchrun on one or several machines. Run the same line on each machine, in any order:
#
#   one machine, 2 processes           bash torchrun.sh --steps 500
#   two machines, 8 processes each     NODES=2 PROCESSES=8 HOST=node-a bash torchrun.sh --steps 500
#   elastic: one machine or two        NODES=1:2 PROCESSES=8 HOST=node-a bash torchrun.sh --steps 500
#   a mesh of 2 x 2 processes          PROGRAM=train_mesh.py PROCESSES=4 bash torchrun.sh --tp 2
#
# All machines need this folder, the same Python environment and the same CHECKPOINT on shared storage.
# What follows torchrun.sh goes to the program, train.py unless PROGRAM names another one in this folder.
set -euo pipefail

folder=$(cd "$(dirname "$0")" && pwd)
program=${PROGRAM:-train.py}     # or train_mesh.py
nodes=${NODES:-1}                # number of machines; least:most for an elastic run
processes=${PROCESSES:-2}        # processes per machine: one for each GPU, or the word gpu
restarts=${MAX_RESTARTS:-3}      # new starts after a process or a machine has failed
run=${RUN_ID:-train}             # any word; another one for each run that shares HOST and PORT
case $program in
train.py) checkpoint=${CHECKPOINT:-checkpoint.pt} ;;
*) checkpoint=${CHECKPOINT:-checkpoints} ;; # a folder
esac

# How long to wait for more machines once the least number is there, and after how many missed signs of life,
# seconds apart, a machine counts as lost. These are the defaults of PyTorch.
waiting=${RDZV_CONF:-last_call_timeout=30,keep_alive_interval=5,keep_alive_max_attempt=3}

# HOST is where the machines meet: the name of one of them, reachable by all. If that machine is lost, the run
# ends; start it again and it resumes. Without HOST nothing leaves this machine, and a free port is taken.
if [ -n "${HOST:-}" ]; then
    meeting=(--rdzv-endpoint "$HOST:${PORT:-29400}")
elif [ "$nodes" = 1 ]; then
    meeting=(--rdzv-endpoint localhost:0 --local-addr localhost)
    case $(uname) in Darwin) loopback=lo0 ;; *) loopback=lo ;; esac
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$loopback}
else
    echo "torchrun.sh: NODES=$nodes needs HOST, the name of one of the machines" >&2
    exit 2
fi

# Without this a restart may read the address of a process that is gone (PyTorch issue 135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# Threads of each process: the cores of a machine divided by its processes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A machine with several networks: name the interface that connects the machines.
#   export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0

# Without a name service each process of PyTorch says once that an address has no name: harmless, so left out.
nameless='The hostname of the client socket cannot be retrieved'

exec torchrun \
    --nnodes "$nodes" \
    --nproc-per-node "$processes" \
    --rdzv-backend c10d \
    "${meeting[@]}" \
    --rdzv-id "$run" \
    --rdzv-conf "$waiting" \
    --max-restarts "$restarts" \
    "$folder/$program" --checkpoint "$checkpoint" "$@" \
    2> >(trap '' INT TERM; grep --line-buffered -v "$nameless" >&2)
