#!/usr/bin/env bash
# Flotilla beside others, in one run, alternating round by round. Prints one JSON line per measurement, and at the end
# Markdown tables with medians of the pairwise ratios.
#   tests/peers/compare.sh [BENCH...]         default: all of
#     etcd     puts and linearizable gets beside a three-node etcd: three processes each, fsync on, mutual TLS on (both for
#              clients and between nodes), native clients on both sides, one client = one outstanding request over 8 connections
#     probe    one client's put beside the physical path of it: client -> A -> B over QUIC, 4 KiB written with RWF_DSYNC, back
#     groups   puts over 1,000 ranges beside puts over 16
#     redis    redis-benchmark SET and GET, 50 clients, P=1 and P=16, beside Redis with appendfsync always
# Environment, with defaults:
#   DIR=target/compare   CLIENTS="1 64 256 1000"   OPS="put get"   SECONDS_EACH=8   ROUNDS=5   WARMUP=2
#   TLS=1                0: etcd without TLS (ours always has it)
#   REQUESTS=100000      of one redis-benchmark run with P=1; eight times as many with P=16
#   FLOTILLA             the binary; NO_BUILD=1: build nothing (the drivers must stand in PEERS)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
dir=${DIR:-$root/target/compare}; dir=$(mkdir -p "$dir" && cd "$dir" && pwd)
clients=${CLIENTS:-1 64 256 1000} ops=${OPS:-put get} seconds=${SECONDS_EACH:-8} rounds=${ROUNDS:-5} warmup=${WARMUP:-2}
requests=${REQUESTS:-100000}
export FLOTILLA=${FLOTILLA:-$target/release/flotilla}
peers=${PEERS:-$target/peers/release}
certs=$dir/flotilla
endpoints=127.0.0.1:7500,127.0.0.1:7510,127.0.0.1:7520

cleanup() {
    bash "$here/etcd.sh" stop "$dir/etcd" || true
    bash "$here/flotilla.sh" stop "$certs" || true
    stop_redis
}
stop_redis() {
    [ -f "$dir/redis.pid" ] || return 0
    local pid; pid=$(cat "$dir/redis.pid"); rm "$dir/redis.pid"
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    rm -rf "$dir/redis"
}
trap cleanup EXIT

needs() { command -v "$1" >/dev/null || { echo "needs $1 ($2)" >&2; exit 1; }; }
note() { echo "$*" >&2; }

# run BENCH CASE SYSTEM ROUND FORMAT COMMAND...
run() {
    python3 "$here/report.py" run --bench "$1" --case "$2" --system "$3" --round "$4" --format "$5" ${cpu_over:+--requests "$cpu_over"} -- "${@:6}"
}

# ours BENCH CASE SYSTEM ROUND OP CLIENTS [ENDPOINTS [CONNECTIONS]]
ours() {
    run "$1" "$2" "$3" "$4" flotilla "$FLOTILLA" bench --endpoints "${7:-$endpoints}" --ca "$certs/ca.crt" --cert "$certs/client.crt" \
        --key "$certs/client.key" --op "$5" --clients "$6" --connections "${8:-8}" --keys 100000 --value-size 256 \
        --duration "${seconds}s" --warmup "${warmup}s" -o json
}

bench_etcd() {
    local scheme=https with=("$certs")
    [ "${TLS:-1}" = 1 ] || { scheme=http; with=(); }
    bash "$here/flotilla.sh" start "$certs" 16 >&2
    bash "$here/etcd.sh" start "$dir/etcd" ${with[@]+"${with[@]}"} >&2
    local op n round members=$scheme://127.0.0.1:2379,$scheme://127.0.0.1:2479,$scheme://127.0.0.1:2579
    for op in $ops; do for n in $clients; do for round in $(seq "$rounds"); do
        run "etcd ($scheme)" "$op, $n clients" etcd "$round" peers "$peers/etcd-load" --endpoints "$members" ${with[@]+--certs "${with[@]}"} \
            --op "$op" --clients "$n" --connections 8 --keys 100000 --value-size 256 --duration "$seconds" --warmup "$warmup"
        ours "etcd ($scheme)" "$op, $n clients" flotilla "$round" "$op" "$n"
    done; done; done
    bash "$here/etcd.sh" stop "$dir/etcd"
    bash "$here/flotilla.sh" stop "$certs"
}

bench_probe() {
    local round port ranges
    for ranges in 1 16; do
        bash "$here/flotilla.sh" start "$certs" $ranges >&2
        # With one range the client asks its leader, as it asks A in the probe; with 16 most puts are forwarded first.
        port=$endpoints
        [ $ranges = 16 ] || port=127.0.0.1:$((7490 + 10 * $(bash "$here/flotilla.sh" leader "$certs" 80)))
        for round in $(seq "$rounds"); do
            run probe "put, 1 client, $ranges range(s)" probe "$round" peers "$peers/path-probe" client --certs "$certs" --file "$dir/probe" \
                --duration "$seconds" --warmup "$warmup"
            ours probe "put, 1 client, $ranges range(s)" flotilla "$round" put 1 "$port" 1
        done
        bash "$here/flotilla.sh" stop "$certs"
    done
    rm -f "$dir/probe"
}

bench_groups() {
    local round ranges
    for round in $(seq "$rounds"); do for ranges in 16 1000; do
        bash "$here/flotilla.sh" start "$certs" $ranges >&2
        ours groups "put, 256 clients" "ranges-$ranges" "$round" put 256
        bash "$here/flotilla.sh" stop "$certs"
    done; done
}

bench_redis() {
    needs redis-server "Debian's redis-server"; needs redis-benchmark "Debian's redis-tools"
    bash "$here/flotilla.sh" start "$certs" 16 >&2
    rm -rf "$dir/redis"; mkdir -p "$dir/redis"
    redis-server --port 6399 --bind 127.0.0.1 --dir "$dir/redis" --appendonly yes --appendfsync always --save '' >"$dir/redis.log" 2>&1 &
    echo $! >"$dir/redis.pid"
    until redis-cli -p 6399 ping >/dev/null 2>&1; do sleep 0.1; done
    # All keys of redis-benchmark begin alike: one range. Its leader is asked, as Redis is asked directly.
    local round depth port cpu_over
    port=$((7492 + 10 * $(bash "$here/flotilla.sh" leader "$certs" key:000000000001)))
    for depth in 1 16; do
        local count=$((depth == 1 ? requests : 8 * requests)); cpu_over=$((2 * count))
        for round in $(seq "$rounds"); do
            local load=(-c 50 -P $depth -n $count -r 100000 -d 256 -t set,get --csv)
            run redis "P=$depth" redis "$round" redis redis-benchmark -p 6399 "${load[@]}"
            run redis "P=$depth" flotilla "$round" redis redis-benchmark -p $port "${load[@]}"
        done
    done
    stop_redis
    bash "$here/flotilla.sh" stop "$certs"
}

needs curl "Debian's curl"; needs python3 "Debian's python3"
if [ -z "${NO_BUILD:-}" ]; then
    needs protoc "Debian's protobuf-compiler and libprotobuf-dev"
    (cd "$root" && cargo build --release --quiet)
    (cd "$here" && cargo build --release --quiet --target-dir "$target/peers")
fi
[ $# -gt 0 ] || set -- etcd probe groups redis
bash "$here/flotilla.sh" certs "$certs"
for bench in "$@"; do
    note "== $bench ($(date -u +%H:%M:%S))"
    "bench_$bench"
done | tee "$dir/results.jsonl"
python3 "$here/report.py" table etcd=flotilla probe=flotilla ranges-16=ranges-1000 redis=flotilla <"$dir/results.jsonl" | tee "$dir/results.md" >&2
