#!/usr/bin/env python3
"""Runs a load driver and writes its figures as one JSON line; makes tables of medians out of such lines.

  report.py run --bench B --case C --system S --round N --format F -- COMMAND...
      F: peers (etcd-load, path-probe), flotilla (flotilla bench -o json), redis (redis-benchmark --csv)
      Prints one line per measurement: bench, case, system, round, ops_per_second, p50_us, p99_us, cpu_us_per_op, errors.
  report.py table BASE=OURS... < LINES
      A Markdown table per bench: for each case the medians of both systems, and the median of the ratios of each round
      (with the smallest and the largest): throughput ours / base, latency ours / base.
  report.py contest OURS < LINES
      A Markdown table per bench: medians of writes per second and CPU per write of every system, and the median of the ratios
      of each round: ours beside the best of the others (the first round's best where a round has no others).
  report.py leader KEY < RANGES
      The node that leads the range of KEY, out of `flotilla range ls -o json`.
"""
import argparse, collections, csv, io, json, resource, statistics, subprocess, sys


def from_peers(text):
    return {"": json.loads(text)}


def from_flotilla(text):
    item = json.loads(text)["items"][0]
    latency = list(item["latencyMicros"].values())[0]
    return {"": {
        "ops_per_second": item["operationsPerSecond"],
        "p50_us": latency["p50"], "p90_us": latency["p90"], "p99_us": latency["p99"], "max_us": latency["max"],
        "cpu_us_per_op": item["cpuMicrosPerOperation"], "errors": sum(item["errors"].values()),
    }}


def from_redis(text):
    # "SET","14000.00","3.4","1.1","3.2","5.4","7.7","20.0": rate, then milliseconds avg, min, p50, p95, p99, max
    rows = [row for row in csv.reader(io.StringIO(text)) if len(row) == 8 and row[0] != "test"]
    return {row[0].split()[0]: {
        "ops_per_second": float(row[1]), "p50_us": float(row[4]) * 1000, "p99_us": float(row[6]) * 1000,
        "max_us": float(row[7]) * 1000, "errors": 0,
    } for row in rows}


FORMATS = {"peers": from_peers, "flotilla": from_flotilla, "redis": from_redis}


def run(arguments):
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with {done.returncode}: {done.stdout}")
    measured = FORMATS[arguments.format](done.stdout)
    if not measured:
        sys.exit(f"{command[0]} said nothing that can be read: {done.stdout}")
    for name, figures in measured.items():
        case = " ".join(part for part in (name, arguments.case) if part)
        line = {"bench": arguments.bench, "case": case, "system": arguments.system, "round": arguments.round, "errors": 0}
        line.update(figures)
        if "cpu_us_per_op" not in line and arguments.requests:
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            line["cpu_us_per_op"] = cpu * 1e6 / arguments.requests
        print(json.dumps(line), flush=True)


def spread(ratios):
    if not ratios:
        return "-"
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def table(arguments):
    lines = [json.loads(line) for line in sys.stdin if line.strip()]
    benches = collections.OrderedDict()
    for line in lines:
        benches.setdefault(line["bench"], []).append(line)
    for pair in arguments.pairs:
        base, ours = pair.split("=")
        for bench, lines in benches.items():
            text = rows(lines, base, ours)
            if text:
                print(f"\n### {bench}: {ours} beside {base}\n")
                print(f"| case | rounds | {base} ops/s | {ours} ops/s | throughput ratio | {base} p50 / p99 ms | {ours} p50 / p99 ms "
                      f"| p50 ratio | generator CPU us/op {base} / {ours} | errors {base} / {ours} |")
                print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
                print("\n".join(text))


def rows(lines, base, ours):
    cases = collections.OrderedDict()
    for line in lines:
        if line["system"] in (base, ours):
            cases.setdefault(line["case"], {}).setdefault(line["system"], {})[line["round"]] = line
    out = []
    for case, systems in cases.items():
        if base not in systems or ours not in systems:
            continue
        rounds = sorted(systems[base].keys() & systems[ours].keys())
        of = lambda system, field: [systems[system][r].get(field) for r in rounds if systems[system][r].get(field) is not None]
        ratio = lambda field: [systems[ours][r][field] / systems[base][r][field] for r in rounds if systems[base][r].get(field)]
        median = lambda system, field, scale=1: statistics.median(of(system, field)) * scale if of(system, field) else float("nan")
        ms = lambda system: f"{median(system, 'p50_us', 1e-3):.2f} / {median(system, 'p99_us', 1e-3):.2f}"
        out.append(
            f"| {case} | {len(rounds)} | {median(base, 'ops_per_second'):,.0f} | {median(ours, 'ops_per_second'):,.0f} "
            f"| {spread(ratio('ops_per_second'))} | {ms(base)} | {ms(ours)} | {spread(ratio('p50_us'))} "
            f"| {median(base, 'cpu_us_per_op'):.1f} / {median(ours, 'cpu_us_per_op'):.1f} "
            f"| {sum(of(base, 'errors'))} / {sum(of(ours, 'errors'))} |")
    return out


def contest(arguments):
    benches = collections.OrderedDict()
    for line in map(json.loads, filter(str.strip, sys.stdin)):
        cases = benches.setdefault(line["bench"], collections.OrderedDict())
        cases.setdefault(line["case"], collections.OrderedDict()).setdefault(line["system"], {})[line["round"]] = line
    for bench, cases in benches.items():
        print(f"\n### {bench}: {arguments.ours} beside the best other\n")
        print("| case | system | rounds | writes/s | CPU us/write | writes/s, ours / best | CPU, best / ours | bytes per replica | idle, cores |")
        print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
        for case, systems in cases.items():
            for system, rounds in systems.items():
                print(contender(case, system, rounds, systems, arguments.ours))


def contender(case, system, rounds, systems, ours):
    others = [of for name, of in systems.items() if name != ours]
    speeds = cpus = "|"
    if system == ours and others:
        best = lambda field, r, pick: pick(of[r if r in of else 1][field] for of in others)
        speeds = spread([line["ops_per_second"] / best("ops_per_second", r, max) for r, line in rounds.items()]) + " |"
        cpus = spread([best("cpu_us_per_op", r, min) / line["cpu_us_per_op"] for r, line in rounds.items()]) + " |"
    median = lambda field: statistics.median(line[field] for line in rounds.values())
    first = rounds[min(rounds)]
    memory = f"{first['bytes_per_replica']:,.0f}" if first.get("idle_cores") else ""
    idle = f"{first['idle_cores']:.3f}" if first.get("idle_cores") else ""
    return (f"| {case} | {system} | {len(rounds)} | {median('ops_per_second'):,.0f} | {median('cpu_us_per_op'):.2f} | {speeds} {cpus} "
            f"{memory} | {idle} |")


def leader(arguments):
    key = arguments.key.encode()
    for item in json.load(sys.stdin)["items"]:
        start, end = bounds(item)
        if start <= key and (end is None or key < end):
            if not item.get("leader"):
                sys.exit(f"the range of {arguments.key} has no leader")
            print(item["leader"])
            return
    sys.exit(f"no range holds {arguments.key}")


def bounds(item):
    start, end = item["start"], item["end"]
    text = lambda key: bytes.fromhex(key["hex"]) if "hex" in key else key["utf8"].encode()
    return text(start), None if end is None else text(end)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("run")
    for name in ("bench", "case", "system"):
        one.add_argument(f"--{name}", required=True)
    one.add_argument("--round", type=int, required=True)
    one.add_argument("--format", choices=FORMATS, required=True)
    one.add_argument("--requests", type=int, help="requests of the whole run: CPU is then this process's child's")
    one.add_argument("command", nargs=argparse.REMAINDER)
    one.set_defaults(do=run)
    many = verbs.add_parser("table")
    many.add_argument("pairs", nargs="+")
    many.set_defaults(do=table)
    all_in = verbs.add_parser("contest")
    all_in.add_argument("ours")
    all_in.set_defaults(do=contest)
    who = verbs.add_parser("leader")
    who.add_argument("key")
    who.set_defaults(do=leader)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
