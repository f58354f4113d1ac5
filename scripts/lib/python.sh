# Finding a Python and keeping the virtual environment in step with requirements/*.txt.
# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/messages.sh"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/disk.sh"

PROJECT_ROOT=$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=${VENV:-$PROJECT_ROOT/.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
export VENV

# python_facts COMMAND: prints its version and, when a module is missing, that module's name.
# The command is tried, not looked up: pyenv's shims exist for versions that do not run.
python_facts() {
    "$1" -c 'import sys
missing = ""
try:
    import ensurepip, ssl, venv
except ImportError as error:
    missing = str(error).split()[-1].strip("\x27")
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], missing))' 2>/dev/null
}

# new_enough VERSION: 3.11 or newer.
new_enough() {
    local major=${1%%.*} minor=${1#*.}
    [[ $1 =~ ^[0-9]+\.[0-9]+$ ]] && ((major > 3 || (major == 3 && minor >= 11)))
}

# find_python: sets FOUND_PYTHON to $PYTHON, or to the newest usable Python, or stops.
find_python() {
    local candidate version missing
    local reason="no Python was found: install Python 3.11 or newer, or set PYTHON to one"
    for candidate in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        read -r version missing <<<"$(python_facts "$candidate")" || true
        if [[ -z $version ]]; then
            [[ -z ${PYTHON:-} ]] || reason="PYTHON=$PYTHON is no Python that runs"
        elif ! new_enough "$version"; then
            reason="$candidate is Python $version; 3.11 or newer is needed"
            [[ -n ${PYTHON:-} ]] || reason+=": install one, or set PYTHON to one"
        elif [[ -n $missing ]]; then
            reason="$candidate (Python $version) lacks its module $missing"
            [[ $missing != ensurepip ]] || reason+=": on Debian, apt install python$version-venv"
        else
            FOUND_PYTHON=$candidate
            return
        fi
    done
    die "$reason"
}

# requirement_sums NAME…: one line for each lock file, which changes with its content.
requirement_sums() {
    local name
    for name in "$@"; do
        echo "$name $(cksum <"$PROJECT_ROOT/requirements/$name.txt")"
    done
}

# venv_is_current NAME…: the environment runs and holds these lock files' packages.
venv_is_current() {
    local stamp=$VENV/.requirements line
    [[ -f $stamp ]] && "$VENV/bin/python" -c "" 2>/dev/null || return 1
    while read -r line; do
        grep -qxF -- "$line" "$stamp" || return 1
    done <<<"$(requirement_sums "$@")"
}

# ensure_venv NAME…: makes $VENV when it is missing and installs requirements/NAME.txt when
# they changed since. A new environment that cannot be completed is removed again.
ensure_venv() {
    local wanted have
    if [[ -n ${PYTHON:-} && -x $VENV/bin/python ]]; then
        find_python
        read -r wanted _ <<<"$(python_facts "$FOUND_PYTHON")"
        read -r have _ <<<"$(python_facts "$VENV/bin/python")" || true
        [[ $wanted == "$have" ]] ||
            die "$VENV is of Python ${have:-unknown}, PYTHON asks for $wanted:" \
                "remove that folder, or set VENV to another place"
    fi
    venv_is_current "$@" || {
        # One at a time; the lock is the folder itself, so no file stays behind.
        if command -v flock >/dev/null; then flock 9; fi
        venv_is_current "$@" || make_venv "$@"
    } 9<"$PROJECT_ROOT/requirements"
}

# make_venv NAME…: a subshell, so that its trap ends with it.
make_venv() (
    local log pip="" started=$SECONDS new="" failed="" name options=()
    log=$(mktemp "${TMPDIR:-/tmp}/flash-promos-pip.XXXXXX")
    # shellcheck disable=SC2317,SC2329  # called by the trap
    undo() {
        [[ -z $pip ]] || kill "$pip" 2>/dev/null || true
        [[ -z $new ]] || rm -rf -- "$VENV"
        [[ -n $failed ]] || rm -f -- "$log"
        live ""
    }
    trap undo EXIT
    trap 'exit 130' INT TERM

    if ! "$VENV/bin/python" -m pip --version &>/dev/null; then
        [[ ! -e $VENV || -f $VENV/pyvenv.cfg ]] ||
            die "$VENV is no virtual environment: set VENV to another place"
        find_python
        require_space "$(dirname "$VENV")" 1000 "the Python environment"
        new=1
        live "Making $VENV"
        rm -rf -- "$VENV"
        "$FOUND_PYTHON" -m venv -- "$VENV" >"$log" 2>&1 || explain_failure "$log"
    fi

    for name in "$@"; do options+=(-r "$PROJECT_ROOT/requirements/$name.txt"); done
    say "Installing Python packages into $VENV (${new:+about 500 MB, }once)"
    # Bytecode is compiled on first use: most of it never is. The locks are complete: no resolving.
    PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$VENV/bin/python" -m pip install --retries 2 \
        --no-input --no-compile --no-deps --require-hashes "${options[@]}" >"$log" 2>&1 9<&- &
    pip=$!
    show_pip "$pip" "$log" "${options[@]}"
    wait "$pip" || { pip=""; explain_failure "$log"; }
    pip=""

    {
        grep -v -E "^($(IFS='|'; echo "$*")) " "$VENV/.requirements" 2>/dev/null || true
        requirement_sums "$@"
    } >"$VENV/.requirements.new"
    mv "$VENV/.requirements.new" "$VENV/.requirements"
    new=""
    say "Python packages are installed ($((SECONDS - started)) s)"
)

# show_pip PID LOG OPTIONS…: a counter until pip ends; without a terminal, a line now and then.
show_pip() {
    local pid=$1 log=$2 total count text next=$((SECONDS + 10))
    shift 2
    [[ $1 == -r ]] && shift
    total=$(grep -h -o -E '^[a-zA-Z0-9_.-]+(\[[a-z0-9_,-]+\])?==' "${@/#-r/\/dev\/null}" | sort -u | wc -l)
    while kill -0 "$pid" 2>/dev/null; do
        count=$(grep -c -E '^(Collecting|Processing|Requirement already)' "$log" || true)
        text="  package $count of $((total)) fetched"
        grep -q '^Installing collected' "$log" && text="  unpacking"
        live "$text"
        if [[ ! -t 1 ]] && ((SECONDS >= next)); then
            say "$text"
            next=$((SECONDS + 10))
        fi
        sleep 0.3
    done
}

# explain_failure LOG: stops with the one line that says why pip or venv failed.
explain_failure() {
    local log=$1 last
    failed=1
    if grep -q 'No space left on device' "$log"; then
        die "the disk is full: the Python packages need about 1000 MB under $(dirname "$VENV")"
    elif grep -q -E 'Retrying \(|NewConnectionError|name resolution|\(from versions: none\)' "$log"; then
        die "PyPI cannot be reached to install the Python packages (details: $log)"
    fi
    last=$(grep -E '^ERROR' "$log" | tail -n 1 || true)
    die "the Python packages could not be installed: ${last:-see the log} (details: $log)"
}
