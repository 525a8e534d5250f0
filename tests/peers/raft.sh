#!/usr/bin/env bash
# Our consensus core beside openraft 0.9 and 0.10, in one run, alternating round by round: three members in one process, logs
# in memory, a network that is a function call, commands of eight bytes. Prints one JSON line per measurement, and at the end
# Markdown tables with medians and the medians of the pairwise ratios (ours / the best openraft of the round).
#   tests/peers/raft.sh [BENCH...]         default: all of
#     writers    1, 64, 1,024 and 4,096 clients of one group, on one thread and on two; also four commands a request
#     groups     1,000 groups: memory per replica, CPU while nothing happens, then 1,000 clients spread over them
#     handle     the public handle beside bare workers, 1,024 clients on one thread
# Environment, with defaults:
#   ROUNDS=3   SECONDS_EACH=0.7   WRITERS="1 64 1024 4096"   IDLE=10   HEARTBEAT=50
#   RAFT_BENCH             the binary; NO_BUILD=1: build nothing
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
bench=${RAFT_BENCH:-$target/raft/release/raft-bench}
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-0.7} writers=${WRITERS:-1 64 1024 4096} idle=${IDLE:-10} heartbeat=${HEARTBEAT:-50}
lines=$(mktemp); trap 'rm -f "$lines"' EXIT

# run BENCH CASE SYSTEM ROUND OPTIONS...
run() {
    python3 "$here/report.py" run --bench "$1" --case "$2" --system "$3" --round "$4" --format peers -- \
        "$bench" "$3" --heartbeat "$heartbeat" "${@:5}" | tee -a "$lines"
}

# contest BENCH CASE ROUND SYSTEMS OPTIONS...
contest() {
    local system
    for system in $4; do run "$1" "$2" "$system" "$3" "${@:5}"; done
}

bench_writers() {
    local round threads count systems
    for round in $(seq "$rounds"); do
        for threads in 1 2; do
            for count in $writers; do
                systems="ours openraft09 openraft10"
                [ "$count" = 1 ] && systems="$systems openraft10-eager"
                contest writers "$count writers, threads $threads" "$round" "$systems" \
                    --threads "$threads" --writers "$count" --seconds "$seconds"
                [ "$count" -ge 1000 ] && contest writers "$count writers x 4, threads $threads" "$round" "ours openraft10" \
                    --threads "$threads" --writers "$count" --batch 4 --seconds "$seconds"
            done
        done
    done
}

bench_groups() {
    contest groups "1000 groups, threads 2" 1 "ours openraft09 openraft10" \
        --threads 2 --groups 1000 --writers 1000 --idle "$idle" --seconds 2
    local round
    for round in $(seq 2 "$rounds"); do
        run groups "1000 groups, threads 2" ours "$round" --threads 2 --groups 1000 --writers 1000 --seconds "$seconds"
    done
}

bench_handle() {
    local round
    for round in $(seq "$((rounds + 2))"); do
        contest handle "1024 writers, one thread" "$round" "ours bare" --writers 1024 --seconds "$seconds"
    done
}

[ -n "${NO_BUILD:-}" ] || CARGO_TARGET_DIR=$target/raft cargo build --release --manifest-path "$here/raft/Cargo.toml" >&2
for name in ${*:-writers groups handle}; do "bench_$name"; done
python3 "$here/report.py" contest ours <"$lines"
