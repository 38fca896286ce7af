#!/usr/bin/env bash
# Test with several processes, see dist_train.sh for the environment:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
set -eu
. "$(dirname "$0")/_launch.sh"
require_arguments 3 'CONFIG CHECKPOINT GPUS [options of test.py]' "$@"
config=$1 checkpoint=$2 gpus=$3
shift 3
start_processes "$gpus" test.py "$config" "$checkpoint" --launcher pytorch "$@"
