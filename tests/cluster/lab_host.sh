#!/usr/bin/env bash
# The first process of a lab host (see lab.py): gives the host folders of its own, starts sshd, and reaps what is orphaned.
#
#   lab_host.sh NAME ADDRESS FOLDER SHARED...
#
# FOLDER/home becomes its home folder; SHARED are folders that it sees where everybody else does. Its network, its
# processes and its mounts are namespaces of its own, so nothing here is seen from outside. Says `ready`, and ends only
# by being killed, with all that runs on the host.
set -euo pipefail
name=$1 address=$2 folder=$3
shift 3

hostname "$name"

# /run, /tmp and /dev/shm are empty after every boot. Shared folders that lie under what is replaced are held in /run
# meanwhile.
mount -t tmpfs -o mode=755 tmpfs /run
for path in "$@"; do
    mkdir -p "/run/held$path"
    mount --rbind "$path" "/run/held$path"
done
mount --bind "$folder/home" /root
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm
for path in "$@"; do
    mkdir -p "$path"
    mount --rbind "/run/held$path" "$path"
done

# Names: its own, and no server to ask for others, so that looking one up fails at once.
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" > /run/hosts
mount --bind /run/hosts /etc/hosts
mount --bind /dev/null /etc/resolv.conf

mkdir /run/sshd
/usr/sbin/sshd -f /root/.ssh/sshd_config -E /root/.ssh/sshd.log

echo ready
while :; do
    sleep infinity &
    wait $! || true
done
