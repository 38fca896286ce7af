#!/usr/bin/env bash
# Train under Slurm:
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]
# GPUS (8) in all, GPUS_PER_NODE (8), CPUS_PER_TASK (5), and SRUN_ARGS for more options of srun.
set -eu
. "$(dirname "$0")/_launch.sh"
require_arguments 4 'PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]' "$@"
partition=$1 job_name=$2 config=$3 work_dir=$4
shift 4
start_job "$partition" "$job_name" train.py "$config" --work-dir "$work_dir" --launcher slurm "$@"
