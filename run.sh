#!/bin/sh
# Find a fitting Python and run launch.py with it; arguments and the exit code are passed on.
here=$(cd -- "$(dirname -- "$0")" && pwd) || exit 2

for python in python3.13 python3.12 python3.14 python3.11 python3 python; do
    # The command is asked for its version: a name alone promises nothing.
    if "$python" -c 'import sys; sys.exit(sys.maxsize < 2**32 or not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; then
        exec "$python" "$here/launch.py" "$@"
    fi
done

echo "Python 3.11 to 3.14 is needed, and none was found." >&2
case $(uname) in
    Darwin) echo "Get it from https://www.python.org/downloads/ or with: brew install python@3.13" >&2 ;;
    *) echo "Get it with: sudo apt install python3 python3-venv   (or: sudo dnf install python3.13)" >&2 ;;
esac
exit 2
