#!/usr/bin/env bash
# with_memory_tmp.sh COMMAND…: run COMMAND with its temporary files in memory, where there are 8 GiB for them, and remove
# them at the end. The tests make hundreds of folders of PostgreSQL data and wait for the disk in most of their time.
set -euo pipefail

shared=/dev/shm
least=$((8 * 1024 * 1024)) # KiB; the tests need up to 2 GiB

# Print the KiB that may be used: of the file system, of the machine, and of the container, whichever is least.
room() {
  df -Pk "$shared" | awk 'NR == 2 {print $4}'
  awk '/^MemAvailable/ {print $2}' /proc/meminfo
  local limit used
  if limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) && [ "$limit" != max ]; then
    used=$(cat /sys/fs/cgroup/memory.current)
    echo $(((limit - used) / 1024))
  fi
}

if [ -d "$shared" ] && [ -w "$shared" ] && [ -r /proc/meminfo ] && [ "$(room | sort -n | head -n 1)" -ge "$least" ]; then
  TMPDIR=$(mktemp -d "$shared/hpo-tests-XXXXXX")
  trap 'rm -rf "$TMPDIR"' EXIT
  chmod 755 "$TMPDIR" # PostgreSQL runs as another user where the tests run as root
  export TMPDIR
fi
"$@"
