# For the launch scripts: what srun and torchrun would end with a traceback or another's usage.
# require_number NAME VALUE LEAST
require_number() {
    case $2 in
        ''|*[!0-9]*) ;;
        *) [ "$2" -lt "$3" ] || return 0 ;;
    esac
    echo "error: $1 $2: expected a whole number, at least $3" >&2
    exit 2
}
