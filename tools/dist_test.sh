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
. "$(dirname "$0")/_launch.sh"
start_processes "$gpus" test.py "$config" "$checkpoint" --launcher pytorch "$@"
