#!/bin/sh
# Makes the virtual environment VENV with the interpreter PYTHON, if need be, and installs into it:
#   install/environment.sh VENV PYTHON ARGUMENT_OF_UV_PIP_INSTALL...
set -eu
venv=$1 python=$2
shift 2

fail() {
  echo "error: $*" >&2
  exit 1
}

if [ -x "$venv/bin/python" ]; then
  python=$venv/bin/python
elif [ -e "$venv" ] && [ -n "$(ls -A "$venv")" ]; then
  fail "VENV=$venv exists and is not a virtual environment: remove it, or choose another VENV="
fi
command -v "$python" >/dev/null || fail "there is no $python: install Python 3.10 to 3.13, or name yours with PYTHON="
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
  fail "$python is $("$python" --version 2>&1), and 3.10 to 3.13 is needed: name another with PYTHON=, and a new VENV="
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python cannot make virtual environments: apt-get install python3-venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || fail "VENV=$venv cannot be made: choose another VENV="

# Into an environment that was interrupted, or that another tool made, pip has to come first.
uv=$(grep '^uv==' requirements.txt)
installed=$("$venv/bin/uv" --version 2>/dev/null || true)
case "$installed " in
"uv ${uv#uv==} "*) ;;
*)
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$uv" ||
    fail "$uv cannot be installed: check the network, the proxy, or the package index in \`pip config list\`"
  ;;
esac
VIRTUAL_ENV=$(cd "$venv" && pwd)
export VIRTUAL_ENV
# Compiled here, once: a first import would do it on one core, and where PYTHONDONTWRITEBYTECODE is set, every import.
"$venv/bin/uv" pip install --compile-bytecode "$@" ||
  fail "VENV=$venv is not complete, see above: mend the cause (network, proxy, 8 GB of free disk, 4 GB with CPU=1), and run make again"
