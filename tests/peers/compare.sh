#!/usr/bin/env bash
# Puts and linearizable gets beside a three-node etcd, in one run, alternating: three processes each, fsync on, native
# clients on both sides, one client = one outstanding request over 8 connections. Prints one JSON line per measurement.
#   tests/peers/compare.sh [DIR]
#   CLIENTS="1 64 256" OPS="put get" SECONDS_EACH=8 ROUNDS=3 tests/peers/compare.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
dir=$(mkdir -p "${1:-$root/target/compare}" && cd "${1:-$root/target/compare}" && pwd)
clients=${CLIENTS:-1 64 256} ops=${OPS:-put} seconds=${SECONDS_EACH:-8} rounds=${ROUNDS:-3}
target=${CARGO_TARGET_DIR:-$root/target}
pids=()

cleanup() {
    bash "$here/etcd.sh" stop "$dir/etcd" || true
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap cleanup EXIT

command -v protoc >/dev/null || { echo "needs Debian's protobuf-compiler and libprotobuf-dev" >&2; exit 1; }
[ -n "${NO_BUILD:-}" ] || (cd "$root" && cargo build --release --quiet)
[ -n "${NO_BUILD:-}" ] || (cd "$here" && cargo build --release --quiet --target-dir "$target/peers")
flotilla=$target/release/flotilla etcd_load=$target/peers/release/etcd-load

rm -rf "$dir/flotilla"; mkdir -p "$dir/flotilla"
certs=$dir/flotilla
"$flotilla" cert ca --dir "$certs" >/dev/null
"$flotilla" cert client --dir "$certs" >/dev/null
cluster=1=127.0.0.1:7500,2=127.0.0.1:7510,3=127.0.0.1:7520
for id in 1 2 3; do
    "$flotilla" cert node --dir "$certs" --id $id --host 127.0.0.1 >/dev/null
    base=$((7500 + 10 * (id - 1)))
    "$flotilla" start --node-id $id --data-dir "$dir/flotilla/data-$id" --listen-quic 127.0.0.1:$base --listen-http 127.0.0.1:$((base + 1)) \
        --listen-resp 127.0.0.1:$((base + 2)) --initial-cluster $cluster --ranges 16 \
        --certs-ca "$certs/ca.crt" --certs-cert "$certs/node-$id.crt" --certs-key "$certs/node-$id.key" >"$dir/flotilla/node-$id.log" 2>&1 &
    pids+=($!)
done
bash "$here/etcd.sh" start "$dir/etcd" >&2
for id in 1 2 3; do
    for _ in $(seq 100); do curl -fs "http://127.0.0.1:$((7501 + 10 * (id - 1)))/readyz" >/dev/null && break; sleep 0.2; done
done

ours() { # op clients
    "$flotilla" bench --endpoints 127.0.0.1:7500,127.0.0.1:7510,127.0.0.1:7520 --ca "$certs/ca.crt" --cert "$certs/client.crt" --key "$certs/client.key" \
        --op "$1" --clients "$2" --connections 8 --keys 100000 --value-size 256 --duration "${seconds}s" --warmup 2s -o json
}
etcds() {
    "$etcd_load" --endpoints http://127.0.0.1:2379,http://127.0.0.1:2479,http://127.0.0.1:2579 --op "$1" --clients "$2" --connections 8 \
        --keys 100000 --value-size 256 --duration "$seconds" --warmup 2
}
for op in $ops; do for n in $clients; do for round in $(seq "$rounds"); do
    etcds "$op" "$n"
    ours "$op" "$n"
done; done; done | tee "$dir/results.jsonl"
