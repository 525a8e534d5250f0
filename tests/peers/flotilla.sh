#!/usr/bin/env bash
# Three `flotilla start` processes on loopback, fsync on, mutual TLS on: our side of the benchmarks.
#   flotilla.sh certs DIR          makes DIR/ca.crt, client.*, node-1.* to node-3.* (valid for 127.0.0.1), unless they exist
#   flotilla.sh start DIR RANGES   starts nodes with empty data; QUIC on 7500, 7510, 7520, HTTP +1, RESP +2; waits until ready
#   flotilla.sh stop DIR           ends exactly the processes it started, and removes their data
#   flotilla.sh leader DIR KEY     the number (1 to 3) of the node that leads the range of KEY
# FLOTILLA names the binary.
set -euo pipefail
verb=${1:?certs, start, stop or leader}; dir=$(mkdir -p "${2:?directory}" && cd "$2" && pwd)
flotilla=${FLOTILLA:?the binary}
case $verb in
certs)
  [ -f "$dir/ca.crt" ] && exit 0
  "$flotilla" cert ca --dir "$dir" >/dev/null
  "$flotilla" cert client --dir "$dir" >/dev/null
  for id in 1 2 3; do "$flotilla" cert node --dir "$dir" --id $id --host 127.0.0.1 --host localhost >/dev/null; done ;;
start)
  ranges=${3:?ranges}
  for id in 1 2 3; do
    base=$((7490 + 10 * id))
    rm -rf "$dir/data-$id"
    "$flotilla" start --node-id $id --data-dir "$dir/data-$id" --listen-quic 127.0.0.1:$base --listen-http 127.0.0.1:$((base + 1)) \
      --listen-resp 127.0.0.1:$((base + 2)) --initial-cluster 1=127.0.0.1:7500,2=127.0.0.1:7510,3=127.0.0.1:7520 --ranges "$ranges" \
      --certs-ca "$dir/ca.crt" --certs-cert "$dir/node-$id.crt" --certs-key "$dir/node-$id.key" >"$dir/node-$id.log" 2>&1 &
    echo $! >"$dir/node-$id.pid"
  done
  for id in 1 2 3; do
    for try in $(seq 300); do
      curl -fs "http://127.0.0.1:$((7491 + 10 * id))/readyz" >/dev/null && break
      [ "$try" = 300 ] && { echo "node $id is not ready:" >&2; tail -n 5 "$dir/node-$id.log" >&2; exit 1; }
      sleep 0.2
    done
  done
  echo "flotilla ready: $("$flotilla" --version)" ;;
stop)
  for id in 1 2 3; do
    [ -f "$dir/node-$id.pid" ] || continue
    pid=$(cat "$dir/node-$id.pid"); kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    rm -rf "$dir/data-$id" "$dir/node-$id.pid"
  done ;;
leader)
  "$flotilla" range ls --endpoints 127.0.0.1:7500 --ca "$dir/ca.crt" --cert "$dir/client.crt" --key "$dir/client.key" -o json |
    python3 "$(dirname "$0")/report.py" leader "${3:?key}" ;;
*) echo "certs, start, stop or leader" >&2; exit 2 ;;
esac
