# Checks for the launch scripts; srun and torchrun would fail with a traceback or an unrelated usage message.
# require_number NAME VALUE LEAST [MOST]
require_number() {
    case $2 in
        ''|*[!0-9]*) ;;
        *) if [ "$2" -ge "$3" ] && [ "$2" -le "${4:-$2}" ]; then return 0; fi ;;
    esac
    echo "error: $1 $2: expected a whole number, at least $3${4:+ and at most $4}" >&2
    exit 2
}

# Settings of dist_train.sh and dist_test.sh: require_processes GPUS
require_processes() {
    require_number GPUS "$1" 1
    require_number NNODES "${NNODES:-1}" 1
    require_number NODE_RANK "${NODE_RANK:-0}" 0
    require_number PORT "${PORT:-29500}" 1 65535
}
