"""What `import catga` costs, and what an idle node weighs.

    python -m bench.imports [--quick]

CPU time of fresh interpreters that find their bytecode cached; resident memory of a node on each broker.
"""

import importlib.util
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import median

from bench.common import (
    Rounds,
    child_env,
    interleave,
    nats_server,
    ratio,
    redis_server,
    rss_mb,
    say,
    spread,
    table,
    verdict,
)

LIMIT = 2.3
STATEMENTS = {"nothing": "pass", "asyncio": "import asyncio", "asyncio, msgspec": "import asyncio, msgspec"}
CATGA = {"catga": "import catga", "catga.Mediator": "from catga import Mediator"}
RSS_LIMITS = {"nats": 45.0, "redis": 60.0}

NODE = """
import asyncio, sys
from catga import Mediator, add_cluster
async def main():
    async with add_cluster(Mediator(), sys.argv[1], node_id="idle"):
        await asyncio.sleep(3)
        print("ready", flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


@dataclass
class Result:
    """Seconds of CPU by statement, a round each; MB by broker, or why there are none."""

    rounds: Rounds = field(default_factory=dict)
    rss: dict[str, float | str] = field(default_factory=dict)


def cpu_of(statement: str) -> float:
    """CPU seconds of a fresh interpreter that runs `statement`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], env=child_env(), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def rss_of_node(scheme: str) -> float | str:
    """MB of a node without work, three seconds after its start."""
    if importlib.util.find_spec(f"catga.backends.{scheme}") is None:
        return "no such backend in this tree"
    with (nats_server if scheme == "nats" else redis_server)() as (url, _):
        process = subprocess.Popen([sys.executable, "-c", NODE, url], env=child_env(), stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                return "the node did not start"
            return rss_mb(process.pid)
        finally:
            process.kill()
            process.wait()


def run(*, quick: bool = False) -> Result:
    """Both."""
    statements = {**STATEMENTS, **CATGA}
    for statement in statements.values():
        cpu_of(statement)  # writes the bytecode
    measures = {name: (lambda s=statement: cpu_of(s)) for name, statement in statements.items()}
    say("imports")
    result = Result(interleave(measures, 15 if quick else 41))
    result.rss = {scheme: rss_of_node(scheme) for scheme in RSS_LIMITS}
    return result


def report(result: Result) -> str:
    """The section of the page."""
    rows = [
        [
            f"`{(STATEMENTS | CATGA)[name]}`",
            f"{median(values) * 1000:.0f}",
            f"{ratio(result.rounds, name, 'asyncio'):.2f} ({spread(result.rounds, name, 'asyncio')})",
        ]
        for name, values in result.rounds.items()
    ]
    text = "CPU time of fresh interpreters, bytecode cached.\n\n"
    text += table(["statement", "ms", "× `import asyncio`"], rows)
    value = ratio(result.rounds, "catga", "asyncio")
    targets: list[list[object]] = [["`import catga`", f"≤ {LIMIT} ×", f"{value:.2f} ×", verdict(value, LIMIT)]]
    for scheme, limit in RSS_LIMITS.items():
        found = result.rss[scheme]
        measured = f"{found:.1f} MB" if isinstance(found, float) else found
        judged = verdict(found, limit) if isinstance(found, float) else "not measured"
        targets.append([f"RSS of an idle node, {scheme}", f"≤ {limit:g} MB", measured, judged])
    return text + "\n" + table(["target", "limit", "measured", ""], targets)


if __name__ == "__main__":
    print(report(run(quick="--quick" in sys.argv)))
