"""Promises of `catga.abc.Transport`."""

from collections.abc import Awaitable, Callable

from catga.abc import Outgoing
from catga.errors import ClusterError
from catga.testing.contract.bed import Bed
from catga.testing.waiting import eventually

MANY = 500


async def delivers_to_the_subscriber(bed: Bed) -> None:
    """A message reaches who subscribed to its subject, byte for byte, and nobody else."""
    sender, receiver, other = await bed.transport(), await bed.transport(), await bed.transport()
    await receiver.transport.subscribe(bed.subject("inbox.b.1"))
    await other.transport.subscribe(bed.subject("inbox.c.1"))
    await sender.publish(bed.subject("inbox.b.1"), bytes(range(256)), b"\x00")
    await receiver.hears(bytes(range(256)), b"\x00")
    await sender.publish(bed.subject("inbox.c.1"), b"for c")
    await other.hears(b"for c")
    assert sender.messages == []


async def a_subscription_is_active_when_subscribe_returns(bed: Bed) -> None:
    """What is sent by another connection right after `subscribe` returned arrives."""
    sender, receiver = await bed.transport(), await bed.transport()
    for index in range(20):
        subject = bed.subject(f"inbox.b.{index}")
        await receiver.transport.subscribe(subject)
        await sender.publish(subject, b"%d" % index)
    await receiver.hears(*(b"%d" % index for index in range(20)))
    assert sender.undeliverable == []


async def keeps_the_order(bed: Bed) -> None:
    """Messages of one sender to one subject arrive in the order of sending, each once, however many."""
    sender, receiver = await bed.transport(), await bed.transport()
    await receiver.transport.subscribe(bed.subject("inbox.b.1"))
    numbers = [b"%d" % index for index in range(MANY)]
    await sender.publish(bed.subject("inbox.b.1"), *numbers[: MANY // 2])
    for number in numbers[MANY // 2 :]:
        await sender.publish(bed.subject("inbox.b.1"), number)
    await receiver.hears(*numbers)


async def tells_who_is_not_listened_to(bed: Bed) -> None:
    """A message to a subject without a subscriber is reported with its subject and its token, soon."""
    sender, receiver = await bed.transport(), await bed.transport()
    here, nowhere = bed.subject("inbox.b.1"), bed.subject("inbox.nobody.1")
    await receiver.transport.subscribe(here)
    sender.transport.publish([Outgoing(here, b"a", 7), Outgoing(nowhere, b"b", 8), Outgoing(here, b"c", 9)])
    sender.transport.publish([Outgoing(nowhere, b"d", 10)])
    await eventually(lambda: len(sender.undeliverable) == 2)
    assert sender.undeliverable == [(nowhere, 8), (nowhere, 10)]
    await receiver.hears(b"a", b"c")


async def unsubscribed_means_unlistened(bed: Bed) -> None:
    """After `unsubscribe` nothing arrives, and the sender learns that nobody listens."""
    sender, receiver = await bed.transport(), await bed.transport()
    subject = bed.subject("inbox.b.1")
    await receiver.transport.subscribe(subject)
    await receiver.transport.unsubscribe(subject)
    await sender.publish(subject, b"late")
    await eventually(lambda: sender.undeliverable)
    assert (sender.undeliverable, receiver.messages) == ([(subject, 1)], [])


async def a_closed_listener_is_unlistened(bed: Bed) -> None:
    """When a transport was closed, senders learn that nobody listens on its subjects."""
    sender, receiver = await bed.transport(), await bed.transport()
    subject = bed.subject("inbox.b.1")
    await receiver.transport.subscribe(subject)
    await receiver.transport.aclose()
    await sender.publish(subject, b"late")
    await eventually(lambda: sender.undeliverable)


async def a_shared_message_reaches_one_of_those_who_share_its_subject(bed: Bed) -> None:
    """Each shared message reaches exactly one of its subscribers, and in the long run each of them gets some."""
    sender, sharing = await bed.transport(), [await bed.transport() for _ in range(3)]
    subject = bed.subject("queue.x")
    for ear in sharing:
        await ear.transport.subscribe(subject, shared=True)
    sender.transport.publish([Outgoing(subject, b"%d" % n, n, shared=True) for n in range(MANY)])
    await eventually(lambda: sum(len(ear.messages) for ear in sharing) >= MANY)
    assert sorted(int(data) for ear in sharing for data in ear.messages) == list(range(MANY))
    assert all(ear.messages for ear in sharing)
    assert sender.undeliverable == []


async def who_shares_no_more_gets_nothing_and_the_last_leaves_nobody(bed: Bed) -> None:
    """After `unsubscribe`, or the end of a transport, shared messages reach the others; without any it is reported."""
    sender, leaver, closer = await bed.transport(), await bed.transport(), await bed.transport()
    subject = bed.subject("queue.x")
    await leaver.transport.subscribe(subject, shared=True)
    await closer.transport.subscribe(subject, shared=True)
    await leaver.transport.unsubscribe(subject)
    few = [Outgoing(subject, b"%d" % n, n, shared=True) for n in range(20)]
    sender.transport.publish(few)
    await closer.hears(*(message.payload for message in few))
    await closer.transport.aclose()
    sender.transport.publish([Outgoing(subject, b"late", 7, shared=True)])
    await eventually(lambda: sender.undeliverable)
    assert (sender.undeliverable, leaver.messages) == ([(subject, 7)], [])


async def carries_up_to_max_payload(bed: Bed) -> None:
    """A message of exactly `max_payload` bytes arrives; the limit is at least 64 KiB."""
    sender, receiver = await bed.transport(), await bed.transport()
    await receiver.transport.subscribe(bed.subject("inbox.b.1"))
    size = min(sender.transport.max_payload, 16 * 1024 * 1024)
    assert size >= 65_536
    await sender.publish(bed.subject("inbox.b.1"), b"x" * size)
    await eventually(lambda: receiver.messages)
    assert len(receiver.messages[0]) == size


async def what_is_published_as_long_as_there_is_room_arrives(bed: Bed) -> None:
    """Who waits for `drain` whenever `publish` says that there is no more room loses nothing, however much it sends."""
    sender, receiver = await bed.transport(), await bed.transport()
    subject = bed.subject("inbox.b.1")
    await receiver.transport.subscribe(subject)
    payloads = [b"%d" % index + bytes(60_000) for index in range(150)]
    for index, payload in enumerate(payloads):
        if not sender.transport.publish([Outgoing(subject, payload, index)]):
            await sender.transport.drain()
    await receiver.hears(*payloads)


async def delivers_to_itself(bed: Bed) -> None:
    """A transport hears what it sends to its own subject: the echo that tells it that it hears."""
    alone = await bed.transport()
    await alone.transport.subscribe(bed.subject("inbox.a.1"))
    await alone.publish(bed.subject("inbox.a.1"), b"echo")
    await alone.hears(b"echo")


async def what_was_published_leaves_before_the_close(bed: Bed) -> None:
    """`aclose` flushes: a message published right before it arrives."""
    sender, receiver = await bed.transport(), await bed.transport()
    await receiver.transport.subscribe(bed.subject("inbox.b.1"))
    await sender.publish(bed.subject("inbox.b.1"), b"farewell")
    await sender.transport.aclose()
    await receiver.hears(b"farewell")


async def a_closed_transport_says_so(bed: Bed) -> None:
    """`publish` on a closed transport raises `ClusterError`; `aclose` can be called twice; `is_up` is false."""
    ear = await bed.transport()
    assert ear.transport.is_up
    await ear.transport.aclose()
    await ear.transport.aclose()
    assert not ear.transport.is_up
    try:
        await ear.publish(bed.subject("inbox.b.1"), b"x")
    except ClusterError:
        return
    raise AssertionError("publish on a closed transport raised no ClusterError")


async def awkward_ids_make_good_subjects(bed: Bed) -> None:
    """The inboxes of nodes with dots, spaces, stars and other scripts in their ids are told apart."""
    from catga.rpc.subjects import inbox

    sender, receiver = await bed.transport(), await bed.transport()
    ids = ["a.b", "a", "a b", "*", ">", "ä", "名", "a=2Eb", "A", "[x]?"]
    for node_id in ids:
        await receiver.transport.subscribe(inbox(bed.prefix, node_id, 1))
    for node_id in ids:
        await sender.publish(inbox(bed.prefix, node_id, 1), node_id.encode())
    await receiver.hears(*(node_id.encode() for node_id in ids))


PROMISES: tuple[Callable[[Bed], Awaitable[None]], ...] = (
    delivers_to_the_subscriber,
    a_subscription_is_active_when_subscribe_returns,
    keeps_the_order,
    tells_who_is_not_listened_to,
    unsubscribed_means_unlistened,
    a_closed_listener_is_unlistened,
    a_shared_message_reaches_one_of_those_who_share_its_subject,
    who_shares_no_more_gets_nothing_and_the_last_leaves_nobody,
    carries_up_to_max_payload,
    what_is_published_as_long_as_there_is_room_arrives,
    delivers_to_itself,
    what_was_published_leaves_before_the_close,
    a_closed_transport_says_so,
    awkward_ids_make_good_subjects,
)
