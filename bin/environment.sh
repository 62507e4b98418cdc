# Sourced by bin/zmqha, bin/zmqha-server and bin/test: the private environment of this checkout, .venv, made on first use; and by
# bench/compare/run, whose environment is .venv-compare.
#
#   root          the checkout (symlinks to the launchers are followed)
#   environment   makes sure that it is there; zmqha.pth in it makes the checkout importable, nothing is copied
#
# Needs python3 >= 3.11 with venv and pip. Made anew when requirements/ changes: zmqha-stamp-* in it holds its digest. Of two first
# uses at once one makes it, the other waits.

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd -P)

complain() {
    printf 'error: %s\nwhy:  %s\nfix:  %s\n' "$1" "$2" "$3" >&2
}

find_python() {
    for candidate in "${ZMQHA_PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            return 0
        fi
    done
    complain "no python3 >= 3.11 found" "zmqha needs Python 3.11 or later" \
        "install it, or name one: ZMQHA_PYTHON=/path/to/python3"
    return 1
}

# environment NAME: NAME is run (what the programs need), test (and what the tests need) or compare (run, and the peers' clients).
environment() {
    place="$root/.venv"
    [ "$1" != compare ] || place="$root/.venv-compare"
    stamp="$place/zmqha-stamp-$1"
    # The usual case costs no Python: nothing is newer than the stamp.
    if [ -x "$place/bin/python" ] && [ -f "$stamp" ]; then
        newer=$(find "$root/requirements" -newer "$stamp" -print)
        [ -n "$newer" ] || return 0
    fi
    find_python && "$python" "$root/bin/environment.py" "$root" "$1"
}
