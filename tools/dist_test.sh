#!/usr/bin/env bash
# Test with several processes, see dist_train.sh for the environment:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
set -eu
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of test.py]" >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3
tools=$(dirname "$0")
. "$tools/_numbers.sh"
require_processes "$gpus"
exec "${PYTHON:-python}" "$tools/_launch.py" \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
