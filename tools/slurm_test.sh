#!/usr/bin/env bash
# Test under Slurm, see slurm_train.sh for the environment:
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]
set -eu
. "$(dirname "$0")/_launch.sh"
require_arguments 4 'PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]' "$@"
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4
start_job "$partition" "$job_name" test.py "$config" "$checkpoint" --launcher slurm "$@"
