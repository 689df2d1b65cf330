"""How long operations take, and the operators' view of that."""

import time
from concurrent.futures import ThreadPoolExecutor

from wire import Wire


def latencies(server, action, count, clients=4):
    """Seconds of each of `count` operations by `clients` at once, sorted. An action gets a connection and a name of its own."""

    def work(number):
        took = []
        with Wire(server, timeout=60) as wire:
            for turn in range(count // clients):
                began = time.monotonic()
                action(wire, f"{number}-{turn}")
                took.append(time.monotonic() - began)
        return took

    with ThreadPoolExecutor(clients) as pool:
        return sorted(second for part in pool.map(work, range(clients)) for second in part)


def percentiles(took):
    return {percent: took[min(len(took) - 1, len(took) * percent // 100)] for percent in (50, 90, 99)}


def told(seconds):
    return ", ".join(f"p{percent} {second * 1e3:.1f} ms" for percent, second in seconds.items())
