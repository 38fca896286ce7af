# Shared by the launch scripts. They check numbers: srun and torchrun would fail with a traceback or an unrelated usage
# message.
tools=$(dirname "$0")

# require_arguments COUNT USAGE ARGUMENTS...
require_arguments() {
    count=$1 usage="usage: ${REPVIT_MM_COMMAND:-$0} $2"
    shift 2
    case ${1:-} in -h|--help) echo "$usage"; exit 0 ;; esac
    if [ $# -lt "$count" ]; then echo "$usage" >&2; exit 2; fi
}

# require_number NAME VALUE LEAST [MOST]
require_number() {
    case $2 in
        ''|*[!0-9]*) ;;
        *) if [ "$2" -ge "$3" ] && [ "$2" -le "${4:-$2}" ]; then return 0; fi ;;
    esac
    echo "error: $1 $2: expected a whole number, at least $3${4:+ and at most $4}" >&2
    exit 2
}

# start_processes GPUS TOOL ARGUMENTS...
start_processes() {
    require_number GPUS "$1" 1
    require_number NNODES "${NNODES:-1}" 1
    require_number NODE_RANK "${NODE_RANK:-0}" 0
    require_number PORT "${PORT:-29500}" 1 65535
    gpus=$1 tool=$2
    shift 2
    exec "${PYTHON:-python}" "$tools/_launch.py" \
        --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
        --nproc_per_node="$gpus" "$tools/$tool" "$@"
}

# start_job PARTITION JOB_NAME TOOL ARGUMENTS...
start_job() {
    require_number GPUS "${GPUS:-8}" 1
    require_number GPUS_PER_NODE "${GPUS_PER_NODE:-8}" 1
    require_number CPUS_PER_TASK "${CPUS_PER_TASK:-5}" 1
    partition=$1 job_name=$2 tool=$3
    shift 3
    # shellcheck disable=SC2086  # SRUN_ARGS are several words
    exec srun --partition="$partition" --job-name="$job_name" \
        --gres="gpu:${GPUS_PER_NODE:-8}" --ntasks="${GPUS:-8}" --ntasks-per-node="${GPUS_PER_NODE:-8}" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$tools/$tool" "$@"
}
