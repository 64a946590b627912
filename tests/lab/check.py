"""Judges what a guest wrote: check.py demo|faults|watchdog|package|soak SHARE [REPLAY.jsonl]. Exit code 1 if it is not as it has to be."""

import json
import re
import sys
from pathlib import Path

RECOVERED_WITHIN_S = 3.0
LINE = re.compile(r"^\[\s*([\d.]+)\] \S+ (\w+)\[\d+\]: (.*)$")


def journal(share):
    """(seconds, program, text) of every line of the journal, by the guest's monotonic clock."""
    found = []
    for line in (Path(share) / "monotonic.txt").read_text(errors="replace").splitlines():
        match = LINE.match(line)
        if match:
            found.append((float(match[1]), match[2], match[3]))
    # the package has started the service once before the test does
    begins = [i for i, (_, program, text) in enumerate(found) if (program, text) == ("lab", "begin")]
    return found[begins[-1] + 1 :] if begins else []


def events(lines):
    """(seconds, event) of every line that is one."""
    found = []
    for t_s, program, text in lines:
        if program == "attendant" and text.startswith('{"v":'):
            found.append((t_s, json.loads(text)))
    return found


def entered(all_events):
    return [e["class"] for e in all_events if e["kind"] == "decision" and e["state"] == "enter"]


def is_within(few, many):
    """Whether `few` are among `many`, in the same order."""
    rest = iter(many)
    return all(any(x == y for y in rest) for x in few)


def demo(share, replay):
    live = entered(e for _, e in events(journal(share)))
    wanted = entered(json.loads(line) for line in open(replay, encoding="utf-8") if line.startswith("{"))
    print("in the guest:", " ".join(live) or "nothing")
    print("in the replay:", " ".join(wanted) or "nothing")
    shown = json.loads((Path(share) / "shown.json").read_text())
    print("shown:", " ".join(shown))
    # The drivers' pictures come at other moments than the file's, so that what is on the edge may be decided here and not there. What the
    # replay decides has to be decided, and nothing may be that is not shown.
    good = bool(wanted) and is_within(wanted, live) and is_within(live, shown)
    if live != wanted:
        print("NOTE: not the same decisions in the guest and in the replay of the files")
    here = Path(share) / "replay-here.jsonl"
    if here.exists():
        replayed = entered(json.loads(line) for line in open(here, encoding="utf-8") if line.startswith("{"))
        print("the recording, replayed on this machine:", " ".join(replayed) or "nothing")
        good &= replayed == live
    return good


def is_power_of_two(number):
    return number & (number - 1) == 0


def faults(share):
    lines = journal(share)
    marks = [(t, text.split()) for t, program, text in lines if program == "lab"]
    states = [(t, e) for t, e in events(lines) if e["kind"] == "modality"]
    notices = [(t, e) for t, e in events(lines) if e["kind"] == "notice"]
    rows, good = {}, True
    for (broken_s, broken), (back_s, back) in zip(marks[0::2], marks[1::2], strict=True):
        assert (broken[0], back[0], broken[1:]) == ("break", "back", back[1:]), (broken, back)
        fault, modality = back[1], back[2]
        row = rows.setdefault((fault, modality), {"cycles": 0, "seen": 0, "recovered": 0, "worst_s": 0.0})
        row["cycles"] += 1
        if fault == "drift":
            said = [e for t, e in notices if broken_s <= t <= back_s + 3 and e["notice"] == "drift"]
            row["seen"] += bool(said)
            row["recovered"] += bool(said)
            continue
        until = back_s + 4
        mine = [(t, e["state"], e["reason"]) for t, e in states if e["modality"] == modality and broken_s <= t <= until]
        if fault != "overrun":
            row["seen"] += any(state in ("failed", "stale") for _, state, _ in mine)
        ok = [t for t, state, _ in mine if state == "ok"]
        # an overrun is mended in place: no state, but a line with its number, for every power of two
        if fault == "overrun":
            said = [text for t, program, text in lines if program == "attendant" and broken_s <= t <= until and "overrun" in text]
            cycle = row["cycles"]
            # the number in the next line counts those that have none
            row["seen"] += any(f"overrun {cycle};" in text for text in said) or (not said and not is_power_of_two(cycle))
            row["recovered"] += not any(state == "failed" for _, state, _ in mine)
            continue
        is_ok = bool(mine) and mine[-1][1] == "ok"
        late_s = max(0.0, ok[-1] - back_s) if ok else 0.0
        row["worst_s"] = max(row["worst_s"], late_s)
        if is_ok and late_s <= RECOVERED_WITHIN_S:
            row["recovered"] += 1
        else:
            print(f"not recovered: {' '.join(back[1:])}: {mine}")
    starts = sum(e["kind"] == "start" for _, e in events(lines))
    print(f"{'fault':<18} {'modality':<9} cycles  seen  recovered  worst")
    for (fault, modality), row in rows.items():
        print(f"{fault:<18} {modality:<9} {row['cycles']:>6} {row['seen']:>5} {row['recovered']:>10}  {row['worst_s']:.2f} s")
        good &= row["recovered"] == row["cycles"] and row["seen"] == row["cycles"]
    # the one restart is the test's own, for the device that is missing at the start
    print(f"starts of the service: {starts}, expected 2")
    return good and bool(rows) and starts == 2


def watchdog(share):
    text = (Path(share) / "monotonic.txt").read_text(errors="replace")
    starts = sum(e["kind"] == "start" for _, e in events(journal(share)))
    print(f"starts: {starts}; " + "; ".join(line for line in text.splitlines() if "atchdog" in line)[:400])
    # the test's own, that after the watchdog, and that after SIGTERM
    return "atchdog" in text and starts >= 3


def slope(pairs):
    """Least squares, per hour, of (milliseconds, value)."""
    mean_t, mean_y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    spread = sum((t - mean_t) ** 2 for t, _ in pairs)
    return 3.6e6 * sum((t - mean_t) * (y - mean_y) for t, y in pairs) / spread if spread else 0.0


def soak(share):
    """After a tenth of the time for warming up: one process, no more descriptors or threads, memory within 1 MB an hour."""
    lines = [line.split() for line in (Path(share) / "samples.txt").read_text().splitlines()]
    gone = [line for line in lines if len(line) != 6]
    samples = [[int(x) for x in line] for line in lines if len(line) == 6]
    settled = samples[len(samples) // 10 :]
    restarts = int((Path(share) / "restarts.txt").read_text())
    print(f"{(samples[-1][0] - samples[0][0]) / 60000:.0f} minutes, {len(samples)} samples, {len(gone)} without a process, {restarts} restarts")
    for i, name, unit in ((2, "memory", "kB"), (3, "descriptors", ""), (4, "threads", ""), (5, "journal", "kB")):
        values = [s[i] for s in settled]
        per_hour = slope([(s[0], s[i]) for s in settled])
        print(f"{name:<12} first {values[0]} last {values[-1]} {unit}, at most {max(values)}, slope {per_hour:+.1f} {unit} an hour")
    memory_kb = slope([(s[0], s[2]) for s in settled])
    flat = all(max(s[i] for s in settled) <= settled[0][i] for i in (3, 4))
    one_process = len({s[1] for s in samples}) == 1 and not gone and restarts == 0
    return one_process and flat and memory_kb <= 1024 and len(settled) >= 5


def package(share):
    """The guest has checked; it says what was not as it should be."""
    wrong = [line for line in (Path(share) / "console.txt").read_text(errors="replace").splitlines() if "NOT OK" in line]
    status = Path(share) / "status"
    return not wrong and status.exists() and status.read_text().strip() == "0"


if __name__ == "__main__":
    test, arguments = sys.argv[1], sys.argv[2:]
    passed = {"demo": demo, "faults": faults, "watchdog": watchdog, "package": package, "soak": soak}[test](*arguments)
    print(f"{test}: {'passed' if passed else 'FAILED'}")
    sys.exit(0 if passed else 1)
