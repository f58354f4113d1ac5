# Becomes a command of deploy/ops, by whatever Python is here: they need its standard library alone.
# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

# ops MODULE ARGUMENT…
ops() {
    local module=$1
    shift
    unset PYTHONPATH PYTHONHOME
    FOUND_PYTHON=$VENV/bin/python
    [[ -x $FOUND_PYTHON ]] || find_python
    # -P: what lies in the folder where one stands is not ours.
    PYTHONPATH=$PROJECT_ROOT exec "$FOUND_PYTHON" -P -m "deploy.ops.$module" "$@"
}
