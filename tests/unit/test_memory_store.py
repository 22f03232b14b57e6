"""`MemoryStore` against a model: what was added stays until its time is over, and so does what is put in its place."""

from hypothesis import given, settings
from hypothesis import strategies as st

from catga.errors import StoreError
from catga.mediator.behaviors import MemoryStore
from catga.testing import ManualClock

MOST = 3
KEYS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.tuples(st.sampled_from(("add", "put", "put", "discard", "wait")), KEYS, st.sampled_from((0.5, 1.0, 5.0, 50.0))),
    max_size=40,
)


class Model:
    """What must be there, and what may be."""

    def __init__(self) -> None:
        self.all: dict[str, tuple[bytes, float]] = {}
        self.kept: set[str] = set()

    def expire(self, now: float) -> None:
        self.all = {key: found for key, found in self.all.items() if found[1] > now}
        self.kept &= self.all.keys()


@settings(deadline=None, max_examples=4 * settings.default.max_examples)
@given(STEPS)
async def test_what_was_added_is_never_forgotten_before_its_time(steps: list[tuple[str, str, float]]) -> None:
    clock, model = ManualClock(), Model()
    store = MemoryStore(max_entries=MOST, clock=clock)
    for number, (step, key, seconds) in enumerate(steps):
        value = b"%d" % number
        if step == "wait":
            clock.advance(seconds)
            model.expire(clock())
        elif step == "discard":
            if key in model.all:
                await store.discard(key, b"another")
                await store.discard(key, model.all[key][0])
                model.kept.discard(key)
                del model.all[key]
        else:
            await set_value(store, model, step, key, (value, clock() + seconds), seconds)
        found = {key: await store.get(key) for key in "abcdef"}
        assert all(found[key] == model.all[key][0] for key in model.kept)
        assert all(value is None or value == model.all[key][0] for key, value in found.items())
        assert sum(value is not None for value in found.values()) <= MOST


async def set_value(
    store: MemoryStore, model: Model, step: str, key: str, entry: tuple[bytes, float], seconds: float
) -> None:
    was_there = await store.get(key) is not None
    try:
        if step == "put":
            await store.put(key, entry[0], seconds)
            is_set = True
        else:
            is_set = await store.add(key, entry[0], seconds)
            assert is_set is not was_there
            model.kept |= {key} if is_set else set()
    except StoreError:
        assert not was_there
        assert len(model.kept) == MOST
        return
    if is_set:
        model.all[key] = entry
