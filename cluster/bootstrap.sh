# The body of a node's start; `remote.bootstrap` puts the settings before it, and the gang file and
# the call of `main` after it. POSIX sh, for dash and bash.
# Never sysrq or `reboot -f`: from inside of a container they reach the machine below.

say() { echo "scsched: $*"; }

# One string that changes whenever the lease is renewed.
lease_now() { stat -c '%y' "$dir/lease" 2>/dev/null; }

# Seconds since boot: the wall clock jumps when a new machine first hears the time.
uptime_s() { read -r seconds rest </proc/uptime; echo "${seconds%%.*}"; }

# Returns when the lease has not changed for dead_man_s.
watch_lease() {
  last=$(lease_now); since=$(uptime_s)
  pause=$((dead_man_s / 4)); [ "$pause" -gt 15 ] && pause=15; [ "$pause" -lt 1 ] && pause=1
  while sleep "$pause"; do
    current=$(lease_now)
    [ "$current" = "$last" ] || { last=$current; since=$(uptime_s); }
    [ $(($(uptime_s) - since)) -gt "$dead_man_s" ] && return
  done
}

power_off() {
  shutdown -h now || poweroff || halt
  sleep 60
  poweroff -f
}

# Everything of the node: it all carries its token, whichever process started it.
kill_node() {
  for file in $(grep -lzsx "SCSCHED_NODE_TOKEN=$gang-$index" /proc/[0-9]*/environ); do
    file=${file#/proc/}
    kill -KILL "${file%/environ}" 2>/dev/null
  done
}

dead_man() {
  trap '' TERM INT HUP
  echo -1000 2>/dev/null >/proc/self/oom_score_adj
  watch_lease
  say "dead man: nobody has renewed the lease of $gang for $dead_man_s s"
  while [ "$machine" = 1 ]; do power_off; done
  while kill -0 $$; do kill_node; sleep 1; done
}

try() {
  tries=0
  until said=$("$@" 2>&1); do
    tries=$((tries + 1))
    [ "$tries" -ge 10 ] && return 1
    sleep 2
  done
}

mount_storage() {
  [ -n "$mount_path" ] || return 0
  if [ "$machine" = 1 ] && [ -n "$mount_export" ] && ! mountpoint -q "$mount_path"; then
    mkdir -p "$mount_path"
    try timeout 60 mount -t "$mount_type" ${mount_options:+-o "$mount_options"} \
      "$mount_export" "$mount_path" || {
      say "storage: cannot mount $mount_export on $mount_path: $said"
      return 1
    }
  fi
  timeout 60 test -d "$mount_path" || { say "storage: there is no $mount_path"; return 1; }
}

# The numbers are what counts on the shared storage; a name that will not do here gets another.
make_account() {
  getent passwd "$uid" >/dev/null && return 0
  getent group "$gid" >/dev/null || groupadd -g "$gid" "scsched$gid" || return 1
  set -- -m -u "$uid" -g "$gid" -s /bin/sh --
  useradd "$@" "$user" || useradd "$@" "scsched$uid" && return 0
  say "account: cannot make $user with uid $uid"
  return 1
}

# What starts this runs once: a machine that boots again would have neither node nor watchdog.
end_at_next_boot() {
  [ -d /etc/systemd/system ] || return 0
  unit=scsched-end.service wants=/etc/systemd/system/multi-user.target.wants
  printf '%s\n' '[Unit]' 'Description=power off a node of scsched that has booted again' \
    "ConditionPathExists=!$dir" '[Service]' 'Type=oneshot' 'ExecStart=/bin/systemctl poweroff' \
    >"/etc/systemd/system/$unit"
  mkdir -p "$wants" && ln -sf "../$unit" "$wants/$unit"
}

plain_index() {
  found=$(print_index) || { echo "exit code $?"; return 1; }
  case $found in '' | *[!0-9]*) echo "'$found' is no number"; return 1 ;; esac
  echo "$found"
}
find_index() {
  try plain_index || { say "the place in the gang is not known: $said"; return 1; }
  index=$said
}

# Nobody else can have made it.
private_dir() {
  mkdir -m 700 "$1" 2>/dev/null && chown "$uid:$gid" "$1"
  [ ! -L "$1" ] && [ "$(stat -c '%F %u %a' "$1")" = "directory $uid 700" ] && return 0
  say "$1 is not a directory of uid $uid alone"
  return 1
}

# env -i: without the batch system's own variables, which Open MPI would obey; but with those that say
# which GPUs of the machine are this job's.
start_node() {
  entry=$(getent passwd "$uid"); user=${entry%%:*}
  home=$(echo "$entry" | cut -d: -f6)
  set -- env -i PATH="$PATH" HOME="${home:-/}" USER="$user" LOGNAME="$user" \
    LANG="${LANG:-C.UTF-8}" \
    SCSCHED_DEPLOYMENT="$deployment" SCSCHED_NODE_TOKEN="$gang-$index" \
    ${LD_LIBRARY_PATH:+LD_LIBRARY_PATH="$LD_LIBRARY_PATH"} \
    ${CUDA_VISIBLE_DEVICES:+CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES"} \
    ${ROCR_VISIBLE_DEVICES:+ROCR_VISIBLE_DEVICES="$ROCR_VISIBLE_DEVICES"} \
    "$python" -I -m scsched.cluster.node --gang "$dir/gang.json" --index "$index"
  # No setuid program, sudo of an account that the image had before, makes root of the owner.
  [ "$machine" = 1 ] && set -- setpriv --no-new-privs --reuid "$uid" --regid "$gid" --init-groups "$@"
  "$@" </dev/null &
  node=$!
  trap 'kill -TERM $node 2>/dev/null' TERM INT
  while :; do
    wait $node; code=$?
    kill -0 $node 2>/dev/null || break
  done
  say "node $index of $gang ended with $code"
  [ "$code" = 0 ] || tail -qn 20 "$work"/*.log 2>/dev/null
}

run() {
  mount_storage || return
  if [ "$machine" = 1 ]; then
    make_account && find_index && mkdir -p "$scratch" && private_dir "$work" || return
  fi
  (umask 077; write_gang >"$dir/gang.json") || return
  chown "$uid:$gid" "$dir/gang.json" "$dir/lease" || return
  start_node
}

# HUP has it clean up. Slurm, which sent the first signal, kills it and us KillWait after that.
end_node() {
  [ -n "$node" ] || return
  kill -HUP $node
  patience=100
  while kill -0 $node && [ $patience -gt 0 ]; do
    sleep 0.1
    patience=$((patience - 1))
  done
} 2>/dev/null

end_job() {
  trap '' TERM INT HUP
  kill -KILL $watchdog
  end_node
  kill_node
  rm -rf "$dir"
  timeout -s KILL 5 "$python" -I -m scsched.cluster.leftovers "$work"
}

main() {
  umask 022
  code=1; node=
  trap 'exit 143' TERM INT HUP
  if [ "$machine" = 1 ]; then
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
    dir=$machine_dir
    # A second call must not power off what the first one has started.
    mkdir -m 755 "$dir" || { say "was started before"; exit 0; }
    trap power_off EXIT
    end_at_next_boot
  else
    # Whoever runs the job is the owner.
    uid=$(id -u); gid=$(id -g); work=${scratch%/}/scsched-$uid
    find_index && mkdir -p "$scratch" && private_dir "$work" || exit 1
    dir=$work/$gang-$index
    rm -rf "$dir"
    mkdir -m 700 "$dir" && echo $$ >"$dir/pid" || exit 1
    trap end_job EXIT
  fi
  : >"$dir/lease"
  dead_man &
  watchdog=$!
  say "start of $gang"
  run
  exit "$code"
}
