# Messages of the scripts: progress on standard output, errors on standard error.
# shellcheck shell=bash

# die MESSAGE: one line on standard error, then exit 1.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# live MESSAGE: what goes on right now; the next message takes its place. Silent without a terminal.
live() {
    [[ -t 1 ]] || return 0
    printf '\r\033[K%s' "$*"
}

# say MESSAGE: a line that stays.
say() {
    live ""
    printf '%s\n' "$*"
}
