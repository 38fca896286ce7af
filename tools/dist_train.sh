#!/usr/bin/env bash
# Train with several processes on this machine, or on several machines:
#   tools/dist_train.sh CONFIG GPUS [options of train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG GPUS   # NODE_RANK=1 on the other one
# PORT (29500) has to differ between runs on the same machine; PYTHON (python) is the interpreter.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2
. "$(dirname "$0")/_launch.sh"
start_processes "$gpus" train.py "$config" --launcher pytorch "$@"
