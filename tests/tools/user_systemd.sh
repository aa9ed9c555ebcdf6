#!/usr/bin/env bash
# user_systemd.sh SCRIPT - run SCRIPT with a real `systemd --user` manager, on a machine whose PID 1 is not
# systemd. Uses its own mount and pid namespaces and cgroup; needs root and Debian's systemd.
# Inside, XDG_CONFIG_HOME is a separate folder: put units in $XDG_CONFIG_HOME/systemd/user.
# The machine's Docker socket is available inside.
# USER_SYSTEMD_CONF sets that folder, to keep the units for the next run.
set -euo pipefail
script=$(readlink -f "$1"); work=$(mktemp -d); name=usd-$$; conf=${USER_SYSTEMD_CONF:-$work/conf}
groups=()
for h in /sys/fs/cgroup /sys/fs/cgroup/*/; do [[ -e $h/cgroup.procs ]] && mkdir -p "${h%/}/$name" && groups+=("${h%/}/$name"); done
# shellcheck disable=SC2329
cleanup() {
  for _ in $(seq 50); do  # a cgroup can be removed after its last process has exited
    for g in "${groups[@]}"; do [[ ! -d $g ]] || find "$g" -depth -type d -exec rmdir {} \; 2>/dev/null || true; done
    local left=0; for g in "${groups[@]}"; do [[ ! -d $g ]] || left=1; done
    ((left)) || break; sleep .1
  done
  rm -rf "$work"
}
trap cleanup EXIT
mkdir -p "$conf/systemd/user"
# shellcheck disable=SC2016  # expanded by the shell inside
inner='
if [ -S /run/docker.sock ]; then touch "$2/docker.sock"; mount --bind /run/docker.sock "$2/docker.sock"; fi
mount -t tmpfs tmpfs /run; [ ! -e "$2/docker.sock" ] || ln -s "$2/docker.sock" /run/docker.sock
mkdir -p /run/systemd/system /run/user/0; chmod 700 /run/user/0
export XDG_RUNTIME_DIR=/run/user/0 XDG_CONFIG_HOME=$3
/lib/systemd/systemd --user --log-target=console >"$2/systemd.log" 2>&1 & sd=$!
for i in $(seq 50); do [ -S /run/user/0/systemd/private ] && break; kill -0 $sd 2>/dev/null || { cat "$2/systemd.log" >&2; exit 1; }; sleep .1; done
rc=0; bash "$1" || rc=$?
systemctl --user exit || true; wait $sd || true; exit $rc'
# a subshell joins the cgroups, so the caller stays where it is
( for g in "${groups[@]}"; do [[ $g == */cpuset/* ]] || echo $BASHPID >"$g/cgroup.procs" 2>/dev/null || true; done
  exec unshare --mount --pid --fork --mount-proc --kill-child bash -euc "$inner" inner "$script" "$work" "$conf" )
