#!/usr/bin/env python3
"""What one put costs: three `flotilla start` processes and `flotilla bench` on this machine, and per operation their CPU,
system calls, fsyncs, datagrams, bytes of log and changes of thread. Prints a Markdown table.

    tests/peers/budget.py BINARY [--clients 1,64,256,1000] [--seconds 4] [--op put] [--ranges 16]

System calls are counted with `perf stat` (Debian's linux-perf) when it may use tracepoints; a dash stands for "not counted".
Ports 7600 to 7629 of 127.0.0.1."""
import argparse, json, os, re, shutil, subprocess, sys, tempfile, time, urllib.request

CALLS = ["sendmsg", "recvmmsg", "epoll_wait", "futex", "pwritev2"]
TICKS = os.sysconf("SC_CLK_TCK")


def metrics(node):
    text = urllib.request.urlopen(f"http://127.0.0.1:{7601 + 10 * node}/metrics", timeout=5).read().decode()
    wanted = ("flotilla_storage_commit_duration_seconds_count", "flotilla_storage_commit_bytes_total",
              "flotilla_requests_forwarded_total", "flotilla_storage_checkpoints_total")
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(wanted))
    return {name.split("{")[0]: float(value) for name, value in lines}


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]), int(fields[12])


def switches(pid):
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        status = open(f"/proc/{pid}/task/{task}/status").read()
        total += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", status))
    return total


def datagrams():
    lines = [line.split() for line in open("/proc/net/snmp") if line.startswith("Udp:")]
    return int(dict(zip(lines[0], lines[1]))["OutDatagrams"])


class Cluster:
    def __init__(self, binary, directory, ranges):
        self.binary, self.directory, self.nodes = binary, directory, []
        self.run("cert", "ca", "--dir", directory)
        self.run("cert", "client", "--dir", directory)
        members = ",".join(f"{i + 1}=127.0.0.1:{7600 + 10 * i}" for i in range(3))
        for i in range(3):
            self.run("cert", "node", "--dir", directory, "--id", str(i + 1), "--host", "127.0.0.1")
            port = 7600 + 10 * i
            self.nodes.append(subprocess.Popen(
                [binary, "start", "--node-id", str(i + 1), "--data-dir", f"{directory}/data-{i}", "--ranges", ranges,
                 "--listen-quic", f"127.0.0.1:{port}", "--listen-http", f"127.0.0.1:{port + 1}",
                 "--listen-resp", f"127.0.0.1:{port + 2}", "--initial-cluster", members,
                 "--certs-ca", f"{directory}/ca.crt", "--certs-cert", f"{directory}/node-{i + 1}.crt",
                 "--certs-key", f"{directory}/node-{i + 1}.key"],
                stdout=open(f"{directory}/node-{i + 1}.log", "w"), stderr=subprocess.STDOUT))
        for i in range(3):
            self.wait_ready(i)

    def run(self, *arguments):
        subprocess.run([self.binary, *arguments], check=True, stdout=subprocess.DEVNULL)

    def wait_ready(self, node):
        for _ in range(600):
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{7601 + 10 * node}/readyz", timeout=1).status == 200:
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit(f"node {node + 1} does not become ready: see {self.directory}/node-{node + 1}.log")

    def bench(self, op, clients, seconds, warmup):
        d = self.directory
        endpoints = ",".join(f"127.0.0.1:{7600 + 10 * i}" for i in range(3))
        return subprocess.Popen(
            [self.binary, "bench", "--endpoints", endpoints, "--ca", f"{d}/ca.crt", "--cert", f"{d}/client.crt",
             "--key", f"{d}/client.key", "--op", op, "--clients", str(clients), "--connections", "8", "--keys", "100000",
             "--value-size", "256", "--duration", f"{seconds}s", "--warmup", f"{warmup}s", "-o", "json"],
            stdout=subprocess.PIPE)

    def stop(self):
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            node.wait()


def count_calls(pids, seconds):
    """System calls of these processes in so many seconds, or nothing where they cannot be counted."""
    if not shutil.which("perf"):
        return {}
    events = ",".join(f"syscalls:sys_enter_{call}" for call in CALLS)
    command = ["perf", "stat", "-x", ",", "-e", events, "-p", ",".join(map(str, pids)), "--", "sleep", str(seconds)]
    lines = subprocess.run(command, stderr=subprocess.PIPE, text=True).stderr.splitlines()
    fields = (line.split(",") for line in lines if "sys_enter_" in line)
    return {f[2].split("sys_enter_")[1]: int(f[0]) for f in fields if f[0].isdigit()}


def measure(cluster, op, clients, seconds):
    warmup = 1
    pids = [node.pid for node in cluster.nodes]
    bench = cluster.bench(op, clients, seconds, warmup)
    time.sleep(warmup + 0.5)
    before = [cpu(p) for p in pids], sum(map(switches, pids)), datagrams(), [metrics(i) for i in range(3)]
    started = time.time()
    calls = count_calls(pids, seconds - 1.5)
    if not calls:
        time.sleep(seconds - 1.5)
    window = time.time() - started
    after = [cpu(p) for p in pids], sum(map(switches, pids)), datagrams(), [metrics(i) for i in range(3)]
    report = json.loads(bench.communicate()[0])["items"][0]
    rate = report["operationsPerSecond"]
    ops = rate * window
    user, system = (sum(a[k] - b[k] for a, b in zip(after[0], before[0])) * 1e6 / TICKS / ops for k in (0, 1))
    grown = lambda name: sum(a.get(name, 0) - b.get(name, 0) for a, b in zip(after[3], before[3])) / ops
    latency = next(iter(report["latencyMicros"].values()))
    call = lambda name: f"{calls[name] / ops:.2f}" if name in calls else "-"
    return [clients, f"{rate:,.0f}", f"{latency['p50'] / 1e3:.2f}", f"{latency['p99'] / 1e3:.1f}", f"{user:.1f}",
            f"{system:.1f}", f"{report['cpuMicrosPerOperation']:.1f}",
            f"{grown('flotilla_storage_commit_duration_seconds_count'):.3f}",
            f"{grown('flotilla_storage_commit_bytes_total'):,.0f}", f"{(after[2] - before[2]) / ops:.2f}",
            f"{(after[1] - before[1]) / ops:.2f}", call("futex"), call("epoll_wait"), call("sendmsg"),
            f"{grown('flotilla_requests_forwarded_total'):.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--clients", default="1,64,256,1000")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--op", default="put")
    parser.add_argument("--ranges", default="16")
    arguments = parser.parse_args()
    print("| clients | per second | p50 ms | p99 ms | user us | system us | generator us | fsyncs | log bytes | datagrams "
          "| thread switches | futex | epoll | sends | forwarded |\n|" + "--:|" * 15)
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(os.path.abspath(arguments.binary), directory, arguments.ranges)
        try:
            for clients in map(int, arguments.clients.split(",")):
                row = measure(cluster, arguments.op, clients, arguments.seconds)
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
