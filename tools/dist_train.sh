#!/usr/bin/env bash
# Train with several processes on this machine, or on several machines:
#   tools/dist_train.sh CONFIG GPUS [options of train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG GPUS   # NODE_RANK=1 on the other one
# PORT (29500) has to differ between runs on the same machine; PYTHON (python) is the interpreter.
set -eu
. "$(dirname "$0")/_launch.sh"
require_arguments 2 'CONFIG GPUS [options of train.py]' "$@"
config=$1 gpus=$2
shift 2
start_processes "$gpus" train.py "$config" --launcher pytorch "$@"
