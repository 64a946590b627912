"""What clients cost the inference loop, and what memory everything takes: `python benches/clients.py target/release/attendant [--rounds N] [--seconds S]`.

Plays the kiosk's demo at real speed with the page on, each time in a process of its own: without clients, and with 200 that follow the streams
(180 events, 20 telemetry) plus one that asks for telemetry and never reads. The two take turns, each round in the other order. Latencies are
those of the program: `step`, from a sample to its last event, as /api/telemetry has it (buckets of 6 %), and "sample to event" of the summary,
which includes waiting. The clients are one process with a lower priority on the same machine: what they use of the processor counts too, so
that the ratio is an upper bound. The last run has everything on that the program was built with (clients, preview, a recording of what led to
decisions, events to a file, a broker that is away and its queue), and gives the memory. Nothing beyond Python's own library is needed.
Exit code 1: p99 of the step more than 10 % above (median of the rounds), more than 48 MB resident at any time, or a client that was not served.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

EVENTS, TELEMETRY = 180, 20
RATIO_MAX, MEMORY_MB_MAX = 1.10, 48.0
ASK = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def connect(port, path):
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(ASK.format(path).encode())
    return client


def follow(port, ready, over, report):
    """200 clients that read, one that does not, until `over`; how many were served, and the bytes that came."""
    os.nice(10)
    selector = selectors.DefaultSelector()
    for i in range(EVENTS + TELEMETRY):
        client = connect(port, "/api/events" if i < EVENTS else "/api/telemetry")
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ, [0, False])
    slow = connect(port, "/api/telemetry")
    ready.set()
    read = 0
    while not over.is_set():
        for key, _ in selector.select(0.1):
            try:
                data = key.fileobj.recv(1 << 16)
            except BlockingIOError:
                continue
            if not data:
                selector.unregister(key.fileobj)
                continue
            key.data[0] += len(data)
            key.data[1] |= b"data: " in data
            read += len(data)
    report.put((sum(key.data[1] for key in selector.get_map().values()), read))
    slow.close()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def telemetry(port):
    """One frame of /api/telemetry."""
    with connect(port, "/api/telemetry") as client, client.makefile() as lines:
        return json.loads(next(line for line in lines if line.startswith("data: "))[6:])


def memory_mb(pid):
    """Resident, resident at most, and of the former what is no file's: the rest can be read again from the program."""
    with open(f"/proc/{pid}/status") as f:
        kb = dict(re.findall(r"^(VmRSS|VmHWM|RssAnon):\s+(\d+) kB", f.read(), re.M))
    return [int(kb[key]) / 1e3 for key in ("VmRSS", "VmHWM", "RssAnon")]


def busy_percent(pid, seconds):
    """Of one core: the network's thread, and the whole program."""
    tick, network, whole = os.sysconf("SC_CLK_TCK"), 0.0, 0.0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat") as f:
            name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
        spent = sum(map(int, rest.split()[11:13])) / tick
        whole += spent
        network += spent if name == "network" else 0.0
    return 100 * network / seconds, 100 * whole / seconds


class Program:
    """A run of the demo; leaving it ends the run as SIGINT does."""

    def __init__(self, program, config, port):
        self.errors = tempfile.TemporaryFile("w+")
        command = [program, "run", "--config", config]
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.errors)
        self.port = port
        end = time.monotonic() + 60
        while True:
            try:
                if get(port, "/healthz")[0] == 200:
                    return
            except OSError:
                pass
            if self.child.poll() is not None or time.monotonic() > end:
                self.child.kill()
                sys.exit(f"{' '.join(command)}: not ready\n{self.said()[-2000:]}")
            time.sleep(0.05)

    def said(self):
        self.errors.seek(0)
        return self.errors.read()

    def end(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait(20)
        return float(re.search(r"sample to event p99 ([\d.]+) ms", self.said())[1])


class Clients:
    def __init__(self, port):
        ready, self.over, self.report = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
        self.process = multiprocessing.Process(target=follow, args=(port, ready, self.over, self.report), daemon=True)
        self.process.start()
        if not ready.wait(30):
            sys.exit("the clients do not get their connections")

    def end(self):
        self.over.set()
        served, read = self.report.get(timeout=20)
        self.process.join(20)
        return served, read


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measure(program, folder, seconds, with_clients, everything=""):
    port = free_port()
    config = os.path.join(folder, "attendant.toml")
    preview = "true" if everything else "false"
    with open(config, "w") as f:
        f.write(f'log = "warn"\n[web]\nlisten = "127.0.0.1:{port}"\npreview = {preview}\n[[sink]]\nkind = "jsonl"\n{everything}')
    run = Program(program, config, port)
    try:
        clients = Clients(port) if with_clients else None
        end = time.monotonic() + seconds
        pictures = 0
        while time.monotonic() < end:
            if everything:
                pictures += get(port, "/api/preview.jpg")[0] == 200
            time.sleep(0.5)
        step = telemetry(port)["stages"]["step"]
        rss, peak, own = memory_mb(run.child.pid)
        network, whole_cpu = busy_percent(run.child.pid, seconds)
        served, read = clients.end() if clients else (0, 0)
        whole = run.end()
    finally:
        run.child.kill()
    found = {"p50": step["p50_us"] / 1e3, "p99": step["p99_us"] / 1e3, "whole": whole, "rss": rss, "peak": peak, "own": own}
    found |= {"network": network, "cpu": whole_cpu}
    return found | {"served": served, "read": read, "pictures": pictures}


def everything(program, folder):
    """What else can be on, as configuration, and in words."""
    words = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    lines = f'[[sink]]\nkind = "jsonl"\npath = "{folder}/events.jsonl"\n[recording]\ndir = "{folder}/kept"\nring_s = 10\n'
    # nobody listens on the discard port
    mqtt = f'[mqtt]\nbroker = "mqtt://127.0.0.1:9"\ndevice = "bench"\nqueue_dir = "{folder}/queue"\n'
    path = os.path.join(folder, "probe.toml")
    with open(path, "w") as f:
        f.write(mqtt)
    probe = subprocess.run([program, "run", "--config", path, "--speed", "max"], capture_output=True, text=True)
    has_mqtt = "needs the feature mqtt" not in probe.stderr
    said = "page, 201 clients, preview, recording ring, events file" + (", broker away" if has_mqtt else " (built without mqtt)")
    return lines + (mqtt if has_mqtt else ""), f"{words}: {said}"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("program")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--seconds", type=float, default=30.0, help="of each run; the demo has samples for about a minute")
    args = args.parse_args()
    rows, wrong = [], []
    print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}: a busy machine measures itself")
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.rounds):
            pair = {}
            for with_clients in (False, True) if i % 2 == 0 else (True, False):
                found = pair[with_clients] = measure(args.program, folder, args.seconds, with_clients)
                name = "201 clients" if with_clients else "no client  "
                print(
                    f"round {i + 1}: {name} step p50 {found['p50']:.2f} ms, p99 {found['p99']:.2f} ms; sample to event p99 "
                    f"{found['whole']:.1f} ms; {found['rss']:.1f} MB resident ({found['own']:.1f} own), "
                    f"{found['peak']:.1f} at most; network's thread {found['network']:.1f} % of a core, "
                    f"program {found['cpu']:.0f} %; {found['served']} served, {found['read'] / 1e6:.1f} MB read",
                    flush=True,
                )
            rows.append(pair)
        for key, name in (("p50", "step p50"), ("p99", "step p99"), ("whole", "sample to event p99")):
            ratios = [pair[True][key] / max(pair[False][key], 1e-3) for pair in rows]
            median = statistics.median(ratios)
            print(f"{name}: with / without clients median {median:.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n {len(ratios)}")
            if key == "p99" and median > RATIO_MAX:
                wrong.append(f"step p99 is {median:.3f} of that without clients, at most {RATIO_MAX}")
        served = min(pair[True]["served"] for pair in rows)
        more, words = everything(args.program, folder)
        found = measure(args.program, folder, args.seconds, True, more)
        print(f"everything on ({words}): {found['rss']:.1f} MB resident ({found['own']:.1f} own), {found['peak']:.1f} at most; "
              f"{found['pictures'] or 'NO'} pictures, load {os.getloadavg()[0]:.1f}")
    if min(served, found["served"]) < EVENTS + TELEMETRY:
        wrong.append(f"{min(served, found['served'])} of {EVENTS + TELEMETRY} clients were served")
    if found["peak"] > MEMORY_MB_MAX:
        wrong.append(f"{found['peak']:.1f} MB resident, at most {MEMORY_MB_MAX}")
    for line in wrong:
        print(f"MISSED: {line}")
    sys.exit(bool(wrong))


main()
