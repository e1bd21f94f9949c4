# Sourced by the scripts beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

# step TEXT COMMAND...: runs the command with its output in a log; shows a spinner on a terminal, plain lines elsewhere.
# If the command fails, prints the end of the log and ends the script.
step() {
    local text=$1 started=$SECONDS log status=0
    shift
    log=$(mktemp)
    if [ -t 2 ]; then
        "$@" >"$log" 2>&1 &
        local pid=$! signs='|/-\' i=0
        while kill -0 "$pid" 2>/dev/null; do
            printf '\r%s %s (%d s) ' "${signs:i++%4:1}" "$text" $((SECONDS - started)) >&2
            sleep 0.2
        done
        wait "$pid" || status=$?
        printf '\r\033[K' >&2
    else
        echo "... $text" >&2
        "$@" >"$log" 2>&1 || status=$?
    fi
    if [ "$status" -ne 0 ]; then
        echo "✗ $text" >&2
        tail -n 40 "$log" >&2
        rm -f "$log"
        exit "$status"
    fi
    echo "✓ $text ($((SECONDS - started)) s)" >&2
    rm -f "$log"
}

need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "$0 needs root: it makes network namespaces and installs packages" >&2
        exit 1
    fi
}
