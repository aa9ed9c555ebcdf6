#!/bin/sh
# Install the demo stack as a service, test it under faults, and remove it, with a real service manager.
# For a Mac (launchd), in CI or by hand; on Linux it uses `systemd --user`.
#
#   scripts/mac_service_check.sh
#
# It writes .env, so none may exist; at the end .venv, logs/ and .env are removed. Each step prints PASS or
# FAIL. A FAIL names what to look at; the folder $CHECK_REPORT has the state of the system.
# Exit status 0: all passed. Plain POSIX shell: macOS has bash 3.2 and no `timeout`.
#
#   CHECK_REPORT   folder for logs and diagnostics          (mac-service-report)
#   CHECK_CONFIG   settings file of the stack               (./config.demo.yaml)
#   CHECK_RETURN_S limit for the restart of a killed manager (30)
set -u
cd "$(dirname "$0")/.." || exit 1

report=${CHECK_REPORT:-mac-service-report}
config=${CHECK_CONFIG:-./config.demo.yaml}
return_s=${CHECK_RETURN_S:-30}
root=$(pwd)
system=$(uname)
python=.venv/bin/python
label=com.vision-insight.manager
passed=0
failed=0
installed=no
load_pids=""
other=""

say() { printf '%s\n' "$*"; }
pass() { passed=$((passed + 1)); say "PASS  $1"; }
fail() { # TITLE, WHAT TO LOOK AT
  failed=$((failed + 1))
  say "FAIL  $1"
  say "      look at: $2"
  diagnose "$failed" "$1"
}
check() { # TITLE, WHAT TO LOOK AT, COMMAND...: passes if the command succeeds
  _title=$1
  _look=$2
  shift 2
  if "$@"; then pass "$_title"; else fail "$_title" "$_look"; fi
}
not() { ! "$@"; }

# --- helpers --------------------------------------------------------------------------------------

ask() { curl -sS --noproxy '*' --max-time 120 "$@"; }
code() { ask -o /dev/null -w '%{http_code}' "$@" 2>/dev/null; } # 000: no response
setting() { # a setting such as gateway.port, as the services load it
  "$python" -c 'import os, sys
from hostctl.host import Host
value = Host(os.environ).settings({})
for name in sys.argv[1].split("."):
    value = getattr(value, name)
print(value)' "$1"
}
worker_ports() {
  "$python" -c 'import os
from hostctl.host import Host
print(*(model.port for model in Host(os.environ).settings({}).models.values()))'
}
within() { # SECONDS COMMAND...: repeats it every half second until it succeeds
  _left=$(($1 * 2))
  shift
  while [ "$_left" -gt 0 ]; do
    "$@" && return 0
    _left=$((_left - 1))
    sleep 0.5
  done
  return 1
}
bounded() { # SECONDS COMMAND...: kills it after this time
  _limit=$1
  shift
  "$@" &
  _command=$!
  (
    _seconds=0
    while [ "$_seconds" -lt "$_limit" ]; do
      sleep 1
      kill -0 "$_command" 2>/dev/null || exit 0
      _seconds=$((_seconds + 1))
    done
    say "      (killed after $_limit s)"
    kill "$_command"
  ) &
  _watch=$!
  wait "$_command"
  _status=$?
  kill "$_watch" 2>/dev/null
  wait "$_watch" 2>/dev/null
  return "$_status"
}
quietly() { # NAME COMMAND...: output goes to the report; on failure its end is printed
  _file="$report/$1.txt"
  shift
  bounded 600 "$@" >"$_file" 2>&1
  _ended=$?
  [ "$_ended" = 0 ] || { say "      status $_ended of: $*"; tail -n 15 "$_file" | sed 's/^/      | /'; }
  return "$_ended"
}
serves() { [ "$(code "$gateway/readyz")" = 200 ]; }
closed() { ! listeners "$1" >/dev/null; }
listeners() { # PORT: the pids that listen on it; status 1 if there are none
  if command -v lsof >/dev/null 2>&1; then
    lsof -nP -iTCP:"$1" -sTCP:LISTEN -t
  else
    ss -Hltnp "sport = :$1" | sed -n 's/.*pid=\([0-9]*\).*/\1/p' | grep .
  fi
}
addresses() { # PORT: the addresses on which it is open
  if command -v lsof >/dev/null 2>&1; then
    lsof -nP -iTCP:"$1" -sTCP:LISTEN -Fn | sed -n 's/^n//p'
  else
    ss -Hltn "sport = :$1" | awk '{print $4}'
  fi
}
ours() { # processes of the stack; a framework's Python does not show .venv/bin/python
  # shellcheck disable=SC2009  # pgrep -f of macOS cuts long command lines
  ps axww -o pid=,command= | grep -E -- ' -m (manager|gateway|workers|web\.supervisor)( |$)' | grep -v grep
}
service_runs() {
  if [ "$system" = Darwin ]; then
    launchctl print "gui/$(id -u)/$label" 2>/dev/null | grep -q 'state = running'
  else
    systemctl --user is-active --quiet vision-insight-manager
  fi
}
definitions() { # definition files of our services; status 1 if there are none
  if [ "$system" = Darwin ]; then
    find "$HOME/Library/LaunchAgents" -name 'com.vision-insight.*' 2>/dev/null | grep .
  else
    find "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user" -name 'vision-insight-*' 2>/dev/null | grep .
  fi
}
known_to_launchd() {
  [ "$system" = Darwin ] && launchctl list | grep 'com.vision-insight'
}

# --- diagnosis of a failure -----------------------------------------------------------------------

diagnose() { # NUMBER TITLE
  _into="$report/failure-$1.txt"
  {
    say "== $2"
    date
    if [ "$system" = Darwin ]; then
      sw_vers
      for _tier in manager gateway; do
        say "-- launchctl print ($_tier): state, last exit code, pended nondemand spawn"
        launchctl print "gui/$(id -u)/com.vision-insight.$_tier"
      done
      say "-- launchctl print-disabled"
      launchctl print-disabled "gui/$(id -u)" | grep vision
      say "-- pmset"
      pmset -g
      pmset -g custom
      say "-- firewall"
      /usr/libexec/ApplicationFirewall/socketfilterfw --getglobalstate
      say "-- launchd's own log"
      log show --last 3m --style compact --predicate 'process == "launchd"' | grep vision | tail -n 40
    else
      systemctl --user status vision-insight-manager vision-insight-gateway --no-pager
    fi
    say "-- listeners"
    for _port in ${ports:-}; do listeners "$_port" | sed "s/^/$_port: /"; done
    say "-- processes of this folder"
    ours
    for _log in logs/*.log; do
      say "-- $_log"
      tail -n 40 "$_log"
    done
  } >"$_into" 2>&1
  say "      diagnosis: $_into"
  grep -E 'state =|last exit code|pended nondemand' "$_into" | sed 's/^[[:space:]]*/      | /' | head -n 8
}

# --- load -----------------------------------------------------------------------------------------

start_load() { # three loops that request captions; each line: status of curl, HTTP status
  rm -f "$report"/load-*.txt "$report/load-off" "$report/errors-of-load.txt"
  for _row in 1 2 3; do
    (
      while [ ! -e "$report/load-off" ]; do
        _http=$(ask -o "$report/load-body-$_row" -w '%{http_code}' -H 'content-type: application/json' \
          --data-binary @"$report/caption.json" "$gateway/v1/vision/analyze" 2>/dev/null)
        say "$? $_http"
        case $_http in
          200) ;;
          000) sleep 0.2 ;;
          *) { cat "$report/load-body-$_row" && say; } >>"$report/errors-of-load.txt" && sleep 0.2 ;;
        esac
      done >>"$report/load-$_row.txt"
    ) &
    load_pids="$load_pids $!"
  done
}
stop_load() {
  : >"$report/load-off"
  for _pid in $load_pids; do wait "$_pid"; done
  load_pids=""
}
load_was_handled() { # each request got a response, an error or no connection; none was cut or timed out
  cat "$report"/load-*.txt >"$report/load.txt"
  sort "$report/load.txt" | uniq -c | sed 's/^/      | curl, HTTP:/'
  grep -o '"code":"[a-z_]*"' "$report/errors-of-load.txt" 2>/dev/null | sort | uniq -c | sed 's/^/      | /'
  grep -q '^0 200$' "$report/load.txt" || return 1
  ! grep -vE '^(0 (200|429|5[0-9][0-9])|7 000)$' "$report/load.txt" >/dev/null
}
captions() {
  ask -H 'content-type: application/json' --data-binary @"$report/caption.json" \
    "$gateway/v1/vision/analyze" >"$report/caption-answer.txt" 2>&1 &&
    grep -q '"result"' "$report/caption-answer.txt"
}

leave() { # clean up in any case
  trap - EXIT INT TERM
  [ -z "$other" ] || kill "$other" 2>/dev/null
  [ -z "$load_pids" ] || stop_load
  mkdir -p "$report/logs"
  cp logs/*.log "$report/logs/" 2>/dev/null
  if [ "$installed" = yes ]; then
    say "removing the installation"
    make uninstall PURGE=1 >"$report/last-uninstall.txt" 2>&1
    rm -f .env
  fi
  say
  say "$passed passed, $failed failed; report: $report"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
  exit $?
}

# --- the check --------------------------------------------------------------------------------------

lists_models() { [ "$(ask "$gateway/v1/models" | grep -o '"object": *"model"' | grep -c .)" -ge 3 ]; }
on_ipv6() { [ "$(code -g "http://[::1]:$gateway_port/readyz")" = 200 ]; }
loopback_alone() { # PORT
  addresses "$1" >"$report/addresses-$1.txt"
  [ -s "$report/addresses-$1.txt" ] && not grep -v '^127\.0\.0\.1:' "$report/addresses-$1.txt"
}
stops() { quietly "$1" make stop && within 30 closed "$gateway_port"; }
starts() { quietly "$1" make start && within 60 serves; }
came_back() { _now=$(listeners "$manager_port" | head -n 1) && [ -n "$_now" ] && [ "$_now" != "$victim" ]; }
serves_again() { within 60 serves && captions; }
taken() { not closed "$gateway_port"; }
refuses() {
  bounded 60 "$python" -m gateway >"$report/port-in-use.txt" 2>&1
  [ $? = 1 ] && grep -q "another program has 127.0.0.1:$gateway_port" "$report/port-in-use.txt"
}
names_the_other_program() {
  make doctor >"$report/doctor-port-in-use.txt" 2>&1
  grep -q "port $gateway_port of gateway is in use by" "$report/doctor-port-in-use.txt"
}
all_closed() { for _port in $ports; do closed "$_port" || return 1; done; }
nobody() { not ours; }
only_settings_stay() { [ ! -e .venv ] && [ ! -e logs ] && [ -e .env ]; }

if [ -e .env ]; then
  say "mac_service_check: found a .env; run this in a fresh checkout, because it uninstalls the stack"
  exit 2
fi
if definitions; then
  say "mac_service_check: these services are already installed: make uninstall"
  exit 2
fi
mkdir -p "$report"
report=$(cd "$report" && pwd)
trap leave EXIT
trap 'exit 130' INT TERM
{
  date
  uname -a
  [ "$system" != Darwin ] || { sw_vers; pmset -g; sysctl hw.memsize hw.model; }
} >"$report/machine.txt" 2>&1

# Services only read .env. All addresses, as in config.yaml, for the IPv6 and the port checks below.
printf 'VISION_CONFIG=%s\nGATEWAY_HOST=0.0.0.0\n' "$config" >.env
chmod 600 .env
installed=yes

check "install" "install.txt in the report; launchctl's status 37 or 5: docs/dev/macos.md, A2 and A3" \
  quietly install make install NATIVE=1
install_failed=$failed
[ -x "$python" ] || exit 1
gateway_port=$(setting gateway.port) && manager_port=$(setting manager.port) || exit 1
gateway="http://127.0.0.1:$gateway_port"
ports="$gateway_port $manager_port $(worker_ports)"
"$python" -c 'import json, hostctl.smoke as smoke
print(json.dumps({"image": smoke.RED_SQUARE, "task": "caption"}))' >"$report/caption.json"

if [ "$install_failed" != 0 ] && ! within 10 serves; then
  say "the gateway does not respond: skipping the other steps"
  exit 1
fi
check "the manager's service runs" \
  "state in launchctl print; 'pended nondemand spawn' (B2)" service_runs
if [ "$system" = Darwin ]; then
  launchctl kickstart "gui/$(id -u)/$label"
  say "note: kickstart of a running job ends with status $? (A2: 37 or 0)"
fi
check "the gateway responds and reaches the manager" \
  "logs/manager.log, logs/gateway.log, logs/*.launchd.log" within 60 serves
check "/v1/models lists the models" "$gateway/v1/models" lists_models
check "an image gets a caption" "caption-answer.txt; logs/vlm-*.log (Metal?)" captions
check "every endpoint responds" "smoke.txt" quietly smoke ./scripts/test-local.sh
check "the gateway responds on IPv6" "lsof -nP -iTCP:$gateway_port (C12)" on_ipv6
check "the manager listens on loopback only" "addresses-$manager_port.txt" loopback_alone "$manager_port"
check "the doctor finds nothing broken" "doctor.txt" quietly doctor make doctor
check "a second install" "install-again.txt; kickstart of a running job is status 37 (A2)" \
  quietly install-again make install NATIVE=1
check "the gateway responds after it" "logs/gateway.log" within 60 serves

captions # starts a worker
victim=$(listeners "$manager_port" | head -n 1)
say "killing the manager (pid $victim) with signal 9"
kill -9 "$victim"
check "a killed manager is back within $return_s s" \
  "'pended nondemand spawn' and 'last exit code' in launchctl print; powermode in pmset -g (B2)" \
  within "$return_s" came_back
if [ "$system" = Darwin ] && ! came_back; then
  launchctl kickstart "gui/$(id -u)/$label"
  check "launchctl kickstart starts it, as the doctor advises" "launchctl print" within 30 came_back
fi
check "it serves again" "logs/manager.log: did a worker of the killed one keep its port?" serves_again

for turn in 1 2; do
  start_load
  sleep 3
  check "restart $turn under load" "restart-$turn.txt; bootout returns before the job has ended (A3)" \
    quietly "restart-$turn" make restart
  check "the gateway responds after restart $turn" "logs/manager.log" within 60 serves
  sleep 2
  stop_load
  check "every request under load got a response or an error" "load.txt: status of curl, HTTP status; errors-of-load.txt" \
    load_was_handled
done

for turn in 1 2; do
  check "stop $turn stops the gateway" "stop-$turn.txt" stops "stop-$turn"
  check "the manager keeps running at stop $turn" "logs/manager.log" service_runs
  check "a second stop" "stop-$turn-again.txt" stops "stop-$turn-again"
  check "start $turn starts the gateway" "start-$turn.txt; status 37 (A2)" starts "start-$turn"
  check "a second start" "start-$turn-again.txt; status 37 (A2)" starts "start-$turn-again"
done

# Another program on 127.0.0.1 gets the local requests of a server on 0.0.0.0; only macOS lets both start.
check "stop before another program takes the port" "stop-port-in-use.txt" stops stop-port-in-use
python3 -m http.server --bind 127.0.0.1 "$gateway_port" >/dev/null 2>&1 &
other=$!
within 10 taken
check "the gateway refuses to start if another program has its port" "port-in-use.txt (B13)" refuses
check "the doctor names the other program" "doctor-port-in-use.txt (B13)" names_the_other_program
kill "$other"
wait "$other" 2>/dev/null
other=""
check "the gateway starts when the other program is gone" "start-port-free.txt" starts start-port-free

mkdir -p "$report/logs"
cp logs/*.log "$report/logs/"
start_load
sleep 2
check "uninstall under load" "uninstall.txt; nothing is deleted while the manager drains (A3)" \
  quietly uninstall make uninstall
stop_load
check "no port stays in use ($ports)" "lsof -nP -iTCP -sTCP:LISTEN" within 30 all_closed
check "no process remains" "the processes above" within 10 nobody
check "no definition of a service remains" "the files above" not definitions
check "launchd has no job of it" "launchctl list | grep vision-insight" not known_to_launchd
check ".venv and logs are removed, .env is kept" "ls -la $root" only_settings_stay
check "a second uninstall" "uninstall-again.txt" quietly uninstall-again make uninstall
rm -f .env
installed=no
