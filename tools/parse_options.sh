# Command-line options into shell variables: sourced, then called as  parse_options "$@".
#
# Before that the script sets one variable for each option, holding its default; the array `options`, naming them; and
# `help_message`. Accepted are --name value and --name=value; - and _ are the same in names. A default of true or false
# makes a boolean, a number makes an integer; any other option takes text, empty only if its default is empty.
#
# split_option takes an option's text apart:  split_option array --overrides "${overrides}"

option_error() {
  echo "$0: $1 (see $0 --help)" >&2
  exit 1
}

option_is_known() { # whether $1, without dashes in front, names an option
  local known
  for known in "${options[@]}"; do
    if [ "$1" = "${known}" ]; then
      return 0
    fi
  done
  return 1
}

option_nearest() { # print the three options that are most like $1: the fewest letters to be changed, added or left out
  printf '%s\n' "${options[@]}" | awk -v given="$1" '
    {
      for (i = 0; i <= length($0); i++) above[i] = i
      for (j = 1; j <= length(given); j++) {
        row[0] = j
        for (i = 1; i <= length($0); i++) {
          row[i] = above[i - 1] + (substr($0, i, 1) != substr(given, j, 1))
          if (above[i] + 1 < row[i]) row[i] = above[i] + 1
          if (row[i - 1] + 1 < row[i]) row[i] = row[i - 1] + 1
        }
        for (i = 0; i <= length($0); i++) above[i] = row[i]
      }
      print above[length($0)], "--" $0
    }' | sort -s -n -k 1,1 | awk 'NR <= 3 { printf "%s%s", (NR > 1 ? ", " : ""), $2 }'
}

option_name() { # print the variable that --$1 sets
  local name=${1#--}
  echo "${name//-/_}"
}

parse_options() {
  local name value given
  while [ $# -gt 0 ]; do
    case "$1" in
    --help | -h)
      printf '%s\n' "${help_message}"
      exit 0
      ;;
    --*)
      given=${1%%=*}
      name=$(option_name "${given}")
      option_is_known "${name}" || option_error "unknown option ${given}; the nearest are $(option_nearest "${name}")"
      if [[ "$1" == *=* ]]; then
        value=${1#*=}
        shift
      else
        [ $# -ge 2 ] || option_error "option ${given} misses its value"
        if [[ "$2" == --* ]] && option_is_known "$(option_name "${2%%=*}")"; then
          option_error "option ${given} misses its value: found the option $2"
        fi
        value=$2
        shift 2
      fi
      option_set "${name}" "${value}" "${given}"
      ;;
    *) option_error "found '$1' where an option was expected; options begin with --" ;;
    esac
  done
}

split_option() { # set array $1 to the entries of $3, the text of option $2; quotes keep white space within an entry
  local -n entries=$1
  # xargs takes quotes and backslashes as a shell does, and runs nothing that stands in the text.
  xargs printf '' <<<"$3" 2>/dev/null || option_error "option $2: found a quote without its partner in: $3"
  mapfile -d '' -t entries < <(xargs -r printf '%s\0' <<<"$3")
}

option_set() { # give variable $1 the value $2, which must fit the variable's default; $3 is the option as typed
  local default=${!1}
  if [[ "${default}" == true || "${default}" == false ]]; then
    [[ "$2" == true || "$2" == false ]] || option_error "option $3: found '$2', expected true or false"
  elif [[ "${default}" =~ ^-?[0-9]+$ ]]; then
    [[ "$2" =~ ^-?[0-9]+$ ]] || option_error "option $3: found '$2', expected a whole number"
  elif [ -n "${default}" ] && [ -z "$2" ]; then
    option_error "option $3 misses its value"
  fi
  printf -v "$1" '%s' "$2"
}
