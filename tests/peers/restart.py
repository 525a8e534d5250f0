#!/usr/bin/env python3
"""How long a real node takes to start again after `kill -9`, with more and more data in its file.

Starts one `flotilla start` process (a cluster of one, default sizes), loads it through its Redis port until it holds so
many megabytes, kills it in the middle of a write, and starts it again three times, each time killed with -9: seconds from
exec until /readyz says 200, and until a GET of the first and of the last acknowledged key answered with the right
value. The node drops what the system cached of its file when it opens it, so the disk is read. Prints one line of JSON
per start, with the seconds of CPU that the node used until then and the machine's load, which tell a slow start from a
busy machine; `docs/plots/restart.py` draws them. Nine bytes of ten are in values of 64 KiB, the others in values of
1,000 bytes; keys are unique and spread over all ranges; four connections, pipelined.

    tests/peers/restart.py BINARY DIRECTORY 100 1024 10240 > restart.json
"""
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

LARGE, SMALL = 64 * 1024, 1000
# Small values per large one: a tenth of the bytes.
SMALL_PER_LARGE = 7
PIPELINE_BYTES = 4 << 20
CONNECTIONS = 4
STARTS = 3
QUIC, HTTP, RESP = 17460, 17461, 17462
PATIENCE = 300


def key(connection, number):
    spread = hashlib.blake2b(f"{connection}:{number}".encode(), digest_size=1).hexdigest()
    return f"{spread}:{connection}:{number}".encode()


def value(name, number, noise):
    bytes_ = LARGE if number % (SMALL_PER_LARGE + 1) == 0 else SMALL
    at = number * 7919 % (len(noise) - LARGE)
    return (name + b"=" + noise[at : at + bytes_])[:bytes_]


class Resp:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", RESP), timeout=30)
        self.file = self.socket.makefile("rb")

    @staticmethod
    def command(*words):
        head = b"*%d\r\n" % len(words)
        return head + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def answer(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("the node has gone")
        if line[:1] == b"-":
            raise RuntimeError(line.decode().strip())
        if line[:1] == b"$":
            length = int(line[1:])
            return None if length < 0 else self.file.read(length + 2)[:-2]
        return line[1:].strip()


class Load:
    """Connections that write until told to stop, or until the node is killed."""

    def __init__(self, noise, first):
        self.noise, self.stop, self.written = noise, threading.Event(), [0] * CONNECTIONS
        self.next = list(first)
        self.failed = []
        self.threads = [threading.Thread(target=self.run, args=(at,), daemon=True) for at in range(CONNECTIONS)]

    def run(self, at):
        try:
            connection = Resp()
            while not self.stop.is_set():
                batch, sizes = [], []
                number = self.next[at]
                while sum(sizes) < PIPELINE_BYTES:
                    name = key(at, number)
                    content = value(name, number, self.noise)
                    batch.append(Resp.command(b"SET", name, content))
                    sizes.append(len(content))
                    number += 1
                connection.socket.sendall(b"".join(batch))
                for size in sizes:
                    answered = False
                    try:
                        connection.answer()
                        answered = True
                    except RuntimeError as refusal:  # overloaded: promised nothing; the key is written again below
                        again = [key(at, self.next[at]), value(key(at, self.next[at]), self.next[at], self.noise)]
                        self.failed.append((at, *again, str(refusal)))
                    self.next[at] += 1
                    self.written[at] += size * answered
                self.retry(connection, at)
        except OSError:
            pass  # killed

    def retry(self, connection, at):
        mine = [one for one in self.failed if one[0] == at]
        for one in mine:
            self.failed.remove(one)
            for _ in range(1000):
                connection.socket.sendall(Resp.command(b"SET", one[1], one[2]))
                try:
                    connection.answer()
                    self.written[at] += len(one[2])
                    break
                except RuntimeError:
                    time.sleep(0.05)
            else:
                raise SystemExit(f"refused for good: {one[3]}")


class Node:
    def __init__(self, binary, directory):
        self.directory = directory
        self.log = open(os.path.join(directory, "node.log"), "ab")
        certificates = lambda name: os.path.join(directory, name)
        self.command = [
            binary, "start", "--node-id=1", f"--data-dir={directory}/data",
            f"--listen-quic=127.0.0.1:{QUIC}", f"--listen-http=127.0.0.1:{HTTP}", f"--listen-resp=127.0.0.1:{RESP}",
            f"--initial-cluster=1=127.0.0.1:{QUIC}", f"--certs-ca={certificates('ca.crt')}",
            f"--certs-cert={certificates('node-1.crt')}", f"--certs-key={certificates('node-1.key')}",
        ]  # fmt: skip

    def start(self):
        self.child = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.began = time.monotonic()

    def kill(self):
        """Returns the seconds of CPU that it used."""
        self.child.send_signal(signal.SIGKILL)
        _, status, used = os.wait4(self.child.pid, 0)
        self.child.returncode = os.waitstatus_to_exitcode(status)
        return used.ru_utime + used.ru_stime

    def wait(self, what):
        while not what():
            if self.child.poll() is not None or time.monotonic() - self.began > PATIENCE:
                sys.exit(f"the node did not come up; see {self.log.name}")
            time.sleep(0.002)
        return time.monotonic() - self.began

    def is_ready(self):
        try:
            return self.page("/readyz") is not None
        except (urllib.error.URLError, OSError):
            return False

    def page(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{HTTP}{path}", timeout=5) as answer:
            return answer.read().decode()

    def metric(self, name):
        for line in self.page("/metrics").splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        return 0.0


def holds(wanted):
    """Whether GETs of these keys are answered, all of them rightly."""
    try:
        connection = Resp()
        for name, content in wanted:
            connection.socket.sendall(Resp.command(b"GET", name))
            if connection.answer() != content:
                sys.exit(f"{name!r} was acknowledged and is not there")
        return True
    except (OSError, RuntimeError):
        return False


def fill(noise, first, megabytes, held):
    load = Load(noise, first)
    began = time.monotonic()
    for thread in load.threads:
        thread.start()
    while held + sum(load.written) < megabytes << 20:
        time.sleep(0.01)
        if not any(thread.is_alive() for thread in load.threads):
            sys.exit("nobody writes any more")
    return load, time.monotonic() - began


def measure(node, noise, megabytes, first, held):
    load, took = fill(noise, first, megabytes, held)
    ring = node.metric("flotilla_storage_ring_used_bytes")
    node.kill()
    load.stop.set()
    for thread in load.threads:
        thread.join()
    done = [(at, number - 1) for at, number in enumerate(load.next) if number > 0]
    refused = {one[1] for one in load.failed}
    wanted = [(key(at, n), value(key(at, n), n, noise)) for at, last in done for n in (0, last)]
    wanted = [one for one in wanted if one[0] not in refused]
    added = sum(load.written)
    print(f"{megabytes} MB: {added >> 20} MB more in {took:.0f} s", file=sys.stderr)
    for _ in range(STARTS):
        node.start()
        ready = node.wait(node.is_ready)
        first_get = node.wait(lambda: holds(wanted))
        file_bytes = os.stat(f"{node.directory}/data/node.redb").st_blocks * 512
        row = {
            "megabytes": megabytes,
            "seconds": round(ready, 3),
            "first_get": round(first_get, 3),
            "ring_mb": int(ring / 1e6),
            "file_mb": int(file_bytes / 1e6),
            "cpu": round(node.kill(), 2),
            "load": os.getloadavg()[0],
        }
        print(json.dumps(row), flush=True)
    return load.next, held + added


def main():
    binary, directory, *sizes = sys.argv[1:]
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    for made in (["ca"], ["node", "--id=1", "--host=127.0.0.1"]):
        subprocess.run([binary, "cert", *made, "--dir", directory], check=True, stdout=subprocess.DEVNULL)
    noise = os.urandom(8 << 20)
    node = Node(binary, directory)
    first, held = [0] * CONNECTIONS, 0
    try:
        for megabytes in map(int, sizes):
            node.start()
            node.wait(node.is_ready)
            node.wait(lambda: holds([]))
            first, held = measure(node, noise, megabytes, first, held)
    finally:
        if node.child.poll() is None:
            node.kill()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
