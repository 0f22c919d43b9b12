"""Many calls on each target, in a random order, as long as they are given: `make test-emulated`.

It prints a line a call and the totals at the end. Exit status 1: something was wrong.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

from ops.triton.emulator.calls import is_call, names
from ops.triton.emulator.device import TARGETS


def lines(program, target, folder, *arguments, seconds=None):
    """What a program of the emulator prints, one object a line, in a process of its own, until the time is over."""
    command = [sys.executable, "-m", f"ops.triton.emulator.{program}", target, folder, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(seconds or threading.TIMEOUT_MAX, process.terminate)
        timer.start()
        for line in process.stdout:
            yield json.loads(line)
        timer.cancel()
    if process.returncode not in (0, -signal.SIGTERM):
        raise SystemExit(f"{program} ended with status {process.returncode} on {target}")


def run_calls(target, options):
    """The reports of one target."""
    found = []
    for report in lines("run", target, options.folder, *options.calls, seconds=options.seconds):
        found.append(report)
        said = [f"{count} x {kind}, {kernel} at {place}" for kind, kernel, place, count in report["problems"]]
        said += [f"WRONG: {report['wrong']}"] if report["wrong"] else []
        print(f"{target} {report['call']}: {'; '.join(said) or 'right'} ({report['seconds']:.1f} s of CPU)", flush=True)
    return found


def run_mutants(target, options):
    return list(lines("mutants", target, options.folder, *options.calls))


def total_of_calls(found):
    """Print the totals; return whether something was wrong."""
    print(f"\n{'target':8}{'calls':>8}{'kernels':>9}{'wrong':>8}{'with problems':>15}")
    kinds = defaultdict(Counter)
    for target, reports in found.items():
        wrong, problems = (sum(bool(report[what]) for report in reports) for what in ("wrong", "problems"))
        print(f"{target:8}{len(reports):8}{sum(len(report['kernels']) for report in reports):9}{wrong:8}{problems:15}")
        for report in reports:
            for kind, kernel, place, _ in report["problems"]:
                kinds[kind][f"{target} {kernel} at {place}"] += 1
    for kind, places in kinds.items():
        print(f"\n{kind}:")
        for place, calls in places.most_common():
            print(f"  {place}: {calls} calls")
    return any(report["wrong"] or report["problems"] for reports in found.values() for report in reports)


def total_of_mutants(found):
    """Print the totals; return whether a kernel has a kind of instruction of which none is seen."""
    print(f"{'target':8}{'kernel':20}{'instruction':32}{'taken out':>10}{'reached':>9}{'seen':>6}")
    blind = False
    for target, reports in found.items():
        groups = defaultdict(list)
        for report in reports:
            groups[report["kernel"], report["instruction"]].append(report)
        for (kernel, instruction), group in groups.items():
            reached, seen = (sum(bool(report[what]) for report in group) for what in ("reached", "seen"))
            print(f"{target:8}{kernel:20}{instruction:32}{len(group):10}{reached:9}{seen:6}")
            blind |= reached > 0 and seen == 0
    return blind


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="*", help="calls by name, as the sweep prints them; all")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--seconds", type=float, help="for each target, which run beside one another; no limit")
    parser.add_argument("--seed", type=int, default=0, help="of the order; a call has the same numbers in any")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="calls whose name has all of these")
    parser.add_argument("--mutants", action="store_true", help="take out synchronising instructions instead")
    parser.add_argument("--folder", default="build/emulator", help="for compiled kernels and the stand-in for CUDA")
    options = parser.parse_args()
    for name in options.calls:
        if not is_call(name):
            parser.error(f"calls: got {name!r}, expected names as the sweep prints them, such as 't5, causal, 64'")
    if not options.calls and options.mutants:
        options.calls = ["t5, causal, 64"]
    options.calls = options.calls or [name for name in names(options.seed) if all(word in name for word in options.only)]
    if not options.calls:
        parser.error(f"--only: got {' '.join(options.only)!r}, which no call has in its name, such as 't5, causal, 64'")
    run, total = (run_mutants, total_of_mutants) if options.mutants else (run_calls, total_of_calls)
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        found = dict(zip(options.targets, pool.map(run, options.targets, [options] * len(options.targets)), strict=True))
    bad = total(found)
    for target in (target for target, reports in found.items() if not reports):
        bad = True
        print(f"\n{target}: no call was finished in the time")
    print(f"\n{time.monotonic() - start:.0f} s, seed {options.seed}")
    sys.exit(bad)


if __name__ == "__main__":
    main()
