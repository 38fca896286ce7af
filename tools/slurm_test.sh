#!/usr/bin/env bash
# Test under Slurm, see slurm_train.sh for the environment:
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]
set -eu
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4
. "$(dirname "$0")/_launch.sh"
start_job "$partition" "$job_name" test.py "$config" "$checkpoint" --launcher slurm "$@"
