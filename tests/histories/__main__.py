"""``python -m tests.histories --seeds 20 --seconds 40 --on nats``: run histories and tell what they broke."""

import argparse
import asyncio
import sys

from tests.histories.checker import counts
from tests.histories.driver import BROKERS
from tests.histories.once import Verdict, run_history


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many, one after the other")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=40.0, help="of load and faults in each")
    parser.add_argument("--on", choices=sorted(BROKERS), action="append", help="the broker; by default each")
    arguments = parser.parse_args()
    verdicts: list[Verdict] = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for on in arguments.on or sorted(BROKERS):
            verdicts.append(asyncio.run(run_history(seed, arguments.seconds, on)))
            print(verdicts[-1].text, flush=True)
    broken = [verdict for verdict in verdicts if verdict.violations]
    found = counts(violation for verdict in broken for violation in verdict.violations)
    print(f"{len(broken)} of {len(verdicts)} histories broke a promise: {dict(found)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
