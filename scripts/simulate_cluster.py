"""A SIMULATION of a run on more devices than anyone has at hand: no model runs, no device is used.

    python scripts/simulate_cluster.py outputs/quickstart-run --chunks 20000

It takes the seconds of real chunks from a run directory (timings.jsonl), draws from them for as many chunks as asked,
and lets 8, 64 and 1,024 simulated devices take them in turns as hfsynth's processes do: each claim is one call of one
store, served one after the other, whose cost is measured here on a real store. Reported is the share of device time
that is lost to the queue and the last chunks alone, with stragglers too, and with failures too. Left out is that an
idle process makes a slow one's last chunk too, after a while: so stragglers cost more here than they would.
"""

import argparse
import heapq
import json
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

DEVICES = (8, 64, 1024)


@dataclass(frozen=True)
class Cluster:
    """What is simulated: times in seconds, rates as shares or per device-hour."""

    devices: int
    claim_seconds: float
    slow_share: float = 0.0
    slow_factor: float = 1.0
    failures_per_hour: float = 0.0
    restart_seconds: float = 300.0
    seed: int = 0


def makespan(chunks: list[float], cluster: Cluster) -> tuple[float, float]:
    """Run the chunks on the simulated devices.

    A device that fails loses its chunk and comes back after `restart_seconds`; the chunk is taken again when no other
    is left, as an idle process does it.

    Returns:
        Seconds until the last chunk is done, and the rate of the devices as a number of devices at full speed.
    """
    rng = random.Random(cluster.seed)
    number_slow = round(cluster.devices * cluster.slow_share)
    speeds = [1 / cluster.slow_factor if device < number_slow else 1.0 for device in range(cluster.devices)]
    free = [(0.0, device) for device in range(cluster.devices)]
    heapq.heapify(free)
    waiting, again = chunks[::-1], []
    store_free = end = 0.0
    while waiting or again:
        now, device = heapq.heappop(free)
        store_free = max(store_free, now) + cluster.claim_seconds  # one store: a claim waits for those before it
        work = (waiting or again).pop()
        seconds = work / speeds[device]
        fails = rng.expovariate(cluster.failures_per_hour / 3600) if cluster.failures_per_hour else float("inf")
        if fails < seconds:
            again.append(work)
            heapq.heappush(free, (store_free + fails + cluster.restart_seconds, device))
        else:
            end = max(end, store_free + seconds)
            heapq.heappush(free, (store_free + seconds, device))
    return end, sum(speeds)


def lost(chunks: list[float], cluster: Cluster) -> float:
    """Return the share of the devices' time that made no chunk."""
    end, rate = makespan(chunks, cluster)
    return 1 - sum(chunks) / (end * rate)


def read_timings(run_dir: Path) -> list[float]:
    """Read the seconds of all chunks of a run.

    Raises:
        ValueError: If there are none.
    """
    lines = [line for file in run_dir.glob("*/timings.jsonl") for line in file.read_text().splitlines()]
    if not lines:
        raise ValueError(f"{run_dir} has no timings.jsonl in its steps; give the run_dir of a real run.")
    return [json.loads(line)["seconds"] for line in lines]


def store_cost(calls: int = 2000) -> float:
    """Measure one `add` on a real store, on this machine."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True)
    began = time.perf_counter()
    for _ in range(calls):
        store.add("counter", 1)
    return (time.perf_counter() - began) / calls


def main() -> None:
    """Read real chunk times, measure the store, simulate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="Run directory of a real run.")
    parser.add_argument("--chunks", type=int, default=20_000, help="Chunks of the simulated step. Default: 20000.")
    parser.add_argument("--slow-share", type=float, default=0.05, help="Share of slow devices. Default: 0.05.")
    parser.add_argument("--slow-factor", type=float, default=4.0, help="How much slower they are. Default: 4.")
    parser.add_argument(
        "--failures-per-hour", type=float, default=0.01, help="Failures of one device in an hour. Default: 0.01."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the draws. Default: 0.")
    arguments = parser.parse_args()
    measured = read_timings(arguments.run_dir)
    chunks = random.Random(arguments.seed).choices(measured, k=arguments.chunks)
    claim = store_cost()
    print(f"SIMULATION of {len(chunks)} chunks, drawn from {len(measured)} real ones of {sum(measured):.1f} s in all;")
    print(f"a claim costs {claim * 1e6:.0f} µs, as measured on a real store on this machine\n")
    print("| devices | seconds | lost to queue and last chunks | with stragglers too | with failures too |")
    print("|---|---|---|---|---|")
    for devices in DEVICES:
        plain = Cluster(devices, claim, seed=arguments.seed)
        slow = replace(plain, slow_share=arguments.slow_share, slow_factor=arguments.slow_factor)
        failing = replace(slow, failures_per_hour=arguments.failures_per_hour)
        shares = " | ".join(f"{lost(chunks, cluster):.2%}" for cluster in (plain, slow, failing))
        print(f"| {devices:,} | {makespan(chunks, failing)[0]:,.1f} | {shares} |")


if __name__ == "__main__":
    main()
