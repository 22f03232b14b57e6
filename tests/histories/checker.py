"""What catga promises, checked against a history. Each rule is a pure function: a history in, violations out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.histories.history import Call, History
from tests.histories.records import Change, Failed, Left, Mark, Outcome, Part, Probe, Seen, Start
from tests.histories.words import read_proof

HANG = 1.0
"""Seconds after its timeout at which a call that has not ended hangs."""
LATE = 0.5
"""Seconds after its caller's deadline at which a handler must not begin."""
THAW = 0.05
"""A call that was admitted when its node froze may begin so soon after the thaw."""
MARGIN = 6.0
"""Seconds before a call in which the nodes that should serve it were left alone."""
DEATH_MARGIN = 10.0
"""Seconds before the news of a death in which that node was left alone."""
MEMORY = 3.0
"""Seconds for which a service whose nodes are gone counts as being there."""
LEAVE = 15.0
"""Seconds in which a node whose ``drain_timeout`` is 5 s must have left."""
SHORT = 2.0
"""A time-out of less may happen on a busy machine."""
STALLED = 0.5
"""Seconds that the loop of a node stands still, by which the machine is too busy to judge a time-out."""
REFUSED = ("overloaded", "cancelled")
"""Failures that are right at any time: small queues are full now and then, and callers cancel."""


@dataclass(frozen=True)
class Violation:
    """A promise that was broken. `about` is a request or a node, `at` when it was seen."""

    rule: str
    about: str
    at: float
    text: str


Rule = Callable[[History], Iterator[Violation]]


def check(history: History) -> list[Violation]:
    """All violations, by rule and time."""
    return [violation for rule in RULES for violation in sorted(rule(history), key=lambda v: v.at)]


def run_twice(history: History) -> Iterator[Violation]:
    """What is not idempotent starts at most once: on one node, on one of each service, or once on each."""
    for call in history.calls.values():
        if not call.kind.idempotent:
            for place, count in Counter(_place(call, start) for start in call.starts).items():
                if count > 1:
                    text = f"a {call.kind.name} that is not idempotent started {count} times{place and f' at {place}'}"
                    yield Violation("ran twice", call.request, call.starts[-1].at, text)


def _place(call: Call, start: Start) -> str:
    """What a start is counted by."""
    return {"send": "", "publish": start.service, "all": start.node}[call.kind.verb]


def no_that_ran(history: History) -> Iterator[Violation]:
    """A failure that says NO never ran."""
    for call in history.calls.values():
        if call.outcome is None or not call.starts:
            continue
        if call.outcome.execution == "no":
            where = ", ".join(start.node for start in call.starts)
            text = f"a {call.kind.name} failed as {call.outcome.code}/no, and started on {where}"
            yield Violation("NO that ran", call.request, call.outcome.at, text)
        for node, part in call.outcome.parts.items():
            if part.execution == "no" and any(start.node == node for start in call.starts):
                text = f"{node} said {part.code}/no to a {call.kind.name}, and started it"
                yield Violation("NO that ran", call.request, call.outcome.at, text)


def wrong_answers(history: History) -> Iterator[Violation]:
    """An answer was made by a run of that very request, on the node and in the life that it names."""
    for call in history.calls.values():
        if call.outcome is None:
            continue
        for value, node in _answers(call, call.outcome):
            if reason := _why_wrong(call, value, node):
                yield Violation("wrong answer", call.request, call.outcome.at, f"{reason}: {value!r}")


def _answers(call: Call, outcome: Outcome) -> list[tuple[str, str]]:
    """The values of an outcome, and which node is said to have made each."""
    if call.kind.verb == "all":
        return [(part.value, node) for node, part in outcome.parts.items() if not part.code]
    return [(outcome.value, outcome.nodes)] if call.is_success and call.kind.verb == "send" else []


def _why_wrong(call: Call, value: str, node: str) -> str:
    try:
        told = read_proof(value)
    except ValueError:
        return "an answer that no handler made"
    if told.request != call.request:
        return "the answer to another request"
    if told.node != node:
        return f"an answer that is said to come from {node}"
    ran = any((start.node, start.life) == (told.node, told.life) for start in call.starts)
    return "" if ran else "an answer without a start"


def lost_events(history: History) -> Iterator[Violation]:
    """An event that was published with success ran in each service that had a node just before, or meanwhile."""
    for call in history.calls.values():
        if call.kind.verb != "publish" or not call.is_success:
            continue
        ran = {start.service for start in call.starts}
        for service in sorted(set(history.service_of.values()) - ran):
            if history.was_up(service, call.invoke.at - MEMORY, call.ended):
                text = f"publish is a success, and no node of the service {service} ran the event"
                yield Violation("lost event", call.request, call.ended, text)


def forgotten_handlers(history: History) -> Iterator[Violation]:
    """What all workers handle is not unknown because they are away."""
    for call in history.calls.values():
        if call.outcome is not None and call.outcome.code == "handler_not_found":
            text = f"a {call.kind.name} failed as {_words(call.outcome)}, though all workers handle it"
            yield Violation("forgotten handlers", call.request, call.ended, text)


def hangs(history: History) -> Iterator[Violation]:
    """Each call ends, by its timeout and a second; while its caller's loop stands still no time passes."""
    for call in history.calls.values():
        invoke = call.invoke
        if call.outcome is None:
            if not history.gone(invoke.caller, invoke.life):
                yield Violation("hang", call.request, call.deadline, "a call that never ended")
            continue
        late = call.outcome.at - call.deadline - history.stalled(invoke.caller, invoke.at, call.outcome.at)
        if late > HANG:
            text = f"a call with a timeout of {invoke.timeout:g} s ended {late:.2f} s after it"
            yield Violation("hang", call.request, call.outcome.at, text)


def late_runs(history: History) -> Iterator[Violation]:
    """Nothing starts half a second after its caller's deadline."""
    thawed = _first_after_thaw(history)
    for call in history.calls.values():
        for start in call.starts:
            late = start.at - call.deadline
            if late > LATE and start not in thawed:
                text = f"a {call.kind.name} started on {start.node} {late:.2f} s after its caller's deadline"
                yield Violation("late run", call.request, start.at, text)


def _first_after_thaw(history: History) -> list[Start]:
    """The first start of each thaw: its call may have been admitted in the moment of the freeze."""
    found: list[Start] = []
    starts: list[Start] = history.of(Start)
    for node in history.workers:
        for fault in history.faults(node, 0.0, float("inf")):
            if fault.what == "freeze":
                after = (s for s in starts if s.node == node and fault.until - THAW <= s.at <= fault.until + THAW)
                found += list(after)[:1]
    return found


def failed_idempotent(history: History) -> Iterator[Violation]:
    """An idempotent request succeeds while two workers, the broker and its caller are left alone."""
    for call in history.calls.values():
        kind, since = call.kind, call.invoke.at - MARGIN
        if not kind.idempotent or kind.routing == "queue" or call.outcome is None or call.is_success:
            continue
        calm = history.calm_workers(since, call.ended)
        is_calm = history.is_broker_calm(since, call.ended) and history.is_calm(call.invoke.caller, since, call.ended)
        if len(calm) >= 2 and is_calm and not _is_excused(history, call, call.outcome):
            text = f"an idempotent {kind.name} failed as {_words(call.outcome)}, with {', '.join(calm)} undisturbed"
            yield Violation("idempotent failed", call.request, call.ended, text)


def failed_in_calm(history: History) -> Iterator[Violation]:
    """While nothing is done to anybody, every request, event and request to all succeeds."""
    for call in history.calls.values():
        if call.outcome is None or not history.is_all_calm(call.invoke.at - MARGIN, call.ended):
            continue
        failures = [part for part in (call.outcome, *call.outcome.parts.values()) if part.code]
        for failure in failures:
            if not _is_excused(history, call, failure):
                text = f"a {call.kind.name} failed as {_words(failure)}, with all undisturbed"
                yield Violation("failed in calm", call.request, call.ended, text)


def _is_excused(history: History, call: Call, failure: Outcome | Part) -> bool:
    """Whether a failure says nothing against catga: a full cluster refuses, and a busy one is slow."""
    if failure.code in REFUSED:
        return True
    since = call.invoke.at - MARGIN
    calm = [call.invoke.caller, *history.calm_workers(since, call.ended)]
    is_pressed = (
        call.invoke.timeout < SHORT
        or not history.is_load_usual(since, call.ended)
        or any(history.stalled(node, since, call.ended) > STALLED for node in calm)
    )
    return (failure.code == "timeout" or failure.execution == "no") and is_pressed  # full, and then another reason


def _words(failure: Outcome | Part) -> str:
    return f"{failure.code}/{failure.execution}"


def incomplete_views(history: History) -> Iterator[Violation]:
    """At the end of the calm each caller sees exactly the living workers, by their present incarnations, as alive."""
    seen: dict[str, Seen] = {record.caller: record for record in history.of(Seen)}
    for caller in (plan.node for plan in history.plan.callers):
        if caller not in seen:
            yield Violation("wrong view", caller, 0.0, f"{caller} did not live to see the end")
            continue
        view = seen[caller]
        have = {node: tuple(value) for node, value in view.nodes.items() if node in history.workers}
        lives = {node: history.living(node, view.at) for node in history.workers}
        want = {node: (life.incarnation, "alive") for node, life in lives.items() if life is not None}
        for node in sorted(have.keys() | want.keys()):
            if have.get(node) != want.get(node):
                text = f"{caller} sees {have.get(node, 'nothing')}, the truth is {want.get(node, 'nothing')}"
                yield Violation("wrong view", node, view.at, text)


def failed_probes(history: History) -> Iterator[Violation]:
    """After the calm every call succeeds."""
    for probe in history.of(Probe):
        for error in probe.errors:
            yield Violation("failed probe", error.split(" ", 1)[0], probe.at, error)


def false_deaths(history: History) -> Iterator[Violation]:
    """No watcher hears that a node left which lives, and to which nothing was done."""
    end = next((mark.at for mark in history.of(Mark) if mark.what == "end"), float("inf"))
    for change in history.of(Change):
        if change.what != "left" or change.node not in history.workers or change.at > end:
            continue
        life = history.living(change.node, change.at)
        is_former = life is not None and change.incarnation < life.incarnation and _is_former(history, change)
        if life is None or is_former or not history.is_calm(change.node, change.at - DEATH_MARGIN, change.at):
            continue
        text = f"{change.caller} heard that {change.node} left ({change.reason}), which lives undisturbed"
        yield Violation("false death", change.node, change.at, text)


def _is_former(history: History, change: Change) -> bool:
    """Whether the incarnation that left was another process than the one that lives."""
    lives = history.lives(change.node)
    now = history.living(change.node, change.at)
    return not any(life.incarnation == change.incarnation and now and life.life == now.life for life in lives)


def failed_joins(history: History) -> Iterator[Violation]:
    """Each start of a node succeeds, as no fault lasts as long as its ``connect_timeout``."""
    for failed in history.of(Failed):
        yield Violation("failed join", failed.node, failed.at, failed.text)


def slow_leaves(history: History) -> Iterator[Violation]:
    """A node that leaves is gone after twice its ``drain_timeout``, and a little."""
    for left in history.of(Left):
        seconds = left.seconds - history.stalled(left.node, left.at - left.seconds, left.at)
        if seconds > LEAVE:
            text = f"{left.node} took {left.seconds:.1f} s to leave, and ended with {left.status}"
            yield Violation("slow leave", left.node, left.at, text)


RULES: tuple[Rule, ...] = (
    run_twice,
    no_that_ran,
    wrong_answers,
    lost_events,
    forgotten_handlers,
    hangs,
    late_runs,
    failed_idempotent,
    failed_in_calm,
    incomplete_views,
    failed_probes,
    false_deaths,
    failed_joins,
    slow_leaves,
)


def counts(violations: Iterable[Violation]) -> Counter[str]:
    """How many of each rule."""
    return Counter(violation.rule for violation in violations)
