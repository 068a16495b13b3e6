# Environment only: sourced by run.sh and tools/test.sh from the recipe's folder, sets PYTHON, PATH and PYTHONPATH.
#
# The first of these that has every package that training needs is taken as it is, and nothing is installed into it:
# $PYTHON, the active virtual environment, .venv. If there is none, .venv is made with `pip install -e .[train]`, in the
# versions of constraints.txt; CONSTRAINTS=FILE names others, and an empty CONSTRAINTS= takes the newest.
# path_extra=test asks for the packages that the tests, the local web page and the documentation need, too.

path_missing() { # the packages that interpreter $1 lacks, on one line
  local name files=()
  for name in base losses eval bench train ${path_extra:+onnx demo docs "${path_extra}"}; do
    files+=("requirements/${name}.txt")
  done
  "$1" tools/missing_packages.py "${files[@]}" | tr '\n' ' '
}

path_find() { # set PYTHON to a suitable interpreter; 1: there is none, 2: the one that was named is no program
  local candidate missing
  for candidate in "${PYTHON:-}" "${VIRTUAL_ENV:+${VIRTUAL_ENV}/bin/python}" "${PWD}/.venv/bin/python"; do
    if [ -z "${candidate}" ]; then
      continue
    elif ! command -v "${candidate}" >/dev/null; then
      if [ "${candidate}" = "${PYTHON:-}" ]; then
        echo "path.sh: PYTHON=${candidate} is not a program; unset PYTHON or name a Python 3.11 or later" >&2
        return 2
      fi
    elif ! missing=$(path_missing "${candidate}"); then
      echo "path.sh: ${candidate} does not run" >&2
    elif [ -n "${missing}" ]; then
      echo "path.sh: ${candidate} lacks: ${missing}" >&2
    else
      PYTHON=$(command -v "${candidate}")
      return 0
    fi
  done
  return 1
}

path_base() { # print an interpreter to make .venv with
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13 python3.14; do
    if [ -n "${candidate}" ] && "${candidate}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "${candidate}"
      return 0
    fi
  done
  echo "path.sh: found no Python 3.11 or later; install one (apt-get install python3 python3-venv) or set PYTHON" >&2
  return 1
}

path_follow() { # pip's lines go from the input to $1; how far it is, on a terminal into one line, else once a minute
  # Returns 28 where pip has told of a full disk, on which the file that tells of it may lie, too.
  local line="" number=0 begun=${SECONDS} told=${SECONDS} full=0 status elapsed
  while true; do
    status=0
    IFS= read -r -t 5 line || status=$?
    if [ "${status}" -eq 0 ]; then
      echo "${line}" 2>/dev/null >&8 || true
      case ${line} in
      Collecting* | Processing*) number=$((number + 1)) ;;
      *"No space left on device"* | *"Disk quota exceeded"*) full=28 ;;
      esac
    elif [ "${status}" -le 128 ]; then # the end; more is five seconds of silence
      break
    fi
    elapsed=$((SECONDS - begun))
    if [ -t 1 ]; then
      printf '\rpath.sh: %d:%02d, %d packages\033[K' $((elapsed / 60)) $((elapsed % 60)) "${number}"
    elif [ $((SECONDS - told)) -ge 60 ]; then
      told=${SECONDS}
      echo "path.sh: $(((elapsed + 30) / 60)) min, ${number} packages"
    fi
  done 8>"$1"
  if [ -t 1 ]; then
    printf '\r\033[K'
  fi
  return "${full}"
}

path_make() { # make .venv
  local base constraints=${CONSTRAINTS-constraints.txt} log=.venv/install.log status=0
  base=$(path_base) || return 1
  PYTHONPATH=${PWD} "${base}" -m wespeaker_qm.utils.room "${path_extra:-train}" || return 1
  echo "path.sh: no suitable Python environment is active: making .venv with pip install -e .[${path_extra:-train}]"
  echo "path.sh: this downloads a few GB (PyTorch) and takes some minutes, once; what pip says is in ${log}"
  if [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    :
  elif "${base}" -c 'import ensurepip' 2>/dev/null; then
    "${base}" -m venv .venv || return 1
  else # Debian without python3-venv: the pip outside can install into .venv
    "${base}" -m venv --without-pip .venv || return 1
  fi
  local pip=(.venv/bin/python -m pip)
  if ! "${pip[@]}" --version >/dev/null 2>&1; then
    pip=("${base}" -m pip --python .venv/bin/python)
  fi
  # Nobody would see a question of pip's.
  (
    PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1 \
      "${pip[@]}" install ${constraints:+-c "${constraints}"} -e ".[${path_extra:-train}]" 2>&1 | path_follow "${log}"
    statuses=("${PIPESTATUS[@]}")
    [ "${statuses[0]}" -eq 0 ] || exit $((statuses[1] > 0 ? statuses[1] : 1))
  ) || status=$?
  if [ "${status}" -eq 28 ]; then
    echo "path.sh: pip install failed: a disk is full, that of ${PWD}/.venv or of ${TMPDIR:-/tmp}, where pip unpacks." \
      "Free some space (pip's copies: pip cache purge; PIP_NO_CACHE_DIR=1 makes none); or let pip unpack on another" \
      "disk, TMPDIR=/path/to/folder; or use an environment of your own, PYTHON=/path/to/python. The same command goes on" \
      "with what .venv holds; to give that up: rm -r .venv" >&2
    return 1
  elif [ "${status}" -ne 0 ]; then
    tail -n 20 "${log}" >&2
    echo "path.sh: pip install failed; see above, and all of it in ${log}. To use an environment of your own:" \
      "PYTHON=/path/to/python ./run.sh" >&2
    return 1
  fi
  PYTHON=${PWD}/.venv/bin/python
}

path_alone() { # wait for whoever else makes .venv, and hold others back until descriptor 7 is closed
  mkdir -p .venv || return 1
  exec 7>.venv/.making || return 1
  if command -v flock >/dev/null && ! flock -n 7; then
    echo "path.sh: another command is making .venv here; waiting for it"
    flock 7
  fi
}

path_set() { # set PYTHON
  local status=0
  path_find || status=$?
  [ "${status}" -eq 1 ] || return "${status}"
  path_alone || return 1
  status=0
  path_find 2>/dev/null || path_make || status=$?
  exec 7>&-
  return "${status}"
}

path_set || return 1 # never exit: whoever sources this by hand would lose the shell
export PYTHON
PATH=$(dirname "${PYTHON}"):${PATH}
export PATH
export PYTHONPATH=${PWD}${PYTHONPATH:+:${PYTHONPATH}}
export PYTHONUTF8=1
