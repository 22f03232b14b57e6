"""Unions in pydantic models of which a value of one member could come back as another.

On arrival pydantic tries all members of a union, and takes the one that needs the least change; of equals, it takes the
first. What the wire has as it is (numbers, text, bytes, lists and maps of them) needs none. Everything else is made of
what the wire has, so another member may be as good. So for each pair of members this module works out, from
their schemas, whether the second could take a value of the first for its own. It rather refuses a union that works than
pass one that does not.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from catga.codec.model_shapes import (
    ANY,
    Entries,
    Fields,
    Free,
    Items,
    Opaque,
    Scalar,
    Schema,
    Shape,
    Values,
    members,
    shapes,
)

_NUMBERS = frozenset({"bool", "float", "int"})
_TEXT = frozenset({"text", "path", "bytes"})
_TEXTS = frozenset(
    {
        *("complex", "date", "datetime", "decimal", "ipv4", "ipv6", "multi-host-url", "path"),
        *("text", "time", "timedelta", "url", "uuid"),
    }
)
_DATES = _NUMBERS | _TEXT | {"date", "datetime", "decimal"}
_LAX: dict[str, frozenset[str]] = {
    "none": frozenset(),
    **dict.fromkeys(("bool", "int", "float"), _NUMBERS | _TEXT | {"decimal"}),
    "complex": _NUMBERS | _TEXT | {"decimal", "complex"},
    "decimal": _NUMBERS | _TEXT | {"decimal"},
    "text": frozenset({"bytes"}),
    "bytes": _TEXTS,
    "path": _TEXTS,
    "date": _DATES,
    "datetime": _DATES,
    "time": _NUMBERS | _TEXT | {"time"},
    "timedelta": _NUMBERS | _TEXT | {"time", "timedelta"},
    "uuid": _TEXT | {"uuid", "url"},
    "ipv4": _NUMBERS | _TEXT | {"ipv4"},
    "ipv6": _NUMBERS | _TEXT | {"ipv6"},
    **dict.fromkeys(("url", "multi-host-url"), _TEXT | {"url", "multi-host-url", "ipv6"}),
}
"""What each kind may be made of, by pydantic's lax rules: numbers, bytes, or the texts of those kinds."""
_EXACT: dict[str, frozenset[str]] = {
    "text": _TEXTS,
    "bytes": frozenset({"bytes"}),
    "float": frozenset({"float", "int"}),
    **{kind: frozenset({kind}) for kind in ("bool", "int", "none")},
}
"""What each kind takes as it is, or nearly."""

_NONE, _MADE, _NEAR, _PLAIN = 0, 1, 2, 3
"""How well a value suits a member: it has none of its fields; something is made of it, so that only the order decides;
it needs little change, or has fields to count; it is as it was on the wire."""


class Take(NamedTuple):
    """How a member would take a value of another one."""

    level: int
    differs: bool
    """Whether it makes another value of it."""


def confusions(union: Schema, rivals: "Rivals") -> Iterator[tuple[Schema, Schema]]:
    """The pairs of members of `union` of which a value of the first could come back as one of the second."""
    if union["type"] == "tagged-union" and not callable(union["discriminator"]):
        return
    listed = members(union)
    for i, member in enumerate(listed):
        for j, other in enumerate(listed):
            take = rivals.take(other, member) if i != j else None
            if take and take.differs and _wins(union, take.level, rivals.own_level(member), is_earlier=j < i):
                yield member, other


def _wins(union: Schema, level: int, own: int, *, is_earlier: bool) -> bool:
    """Whether a member that takes a value at `level` gets it, before the one that it is of."""
    if callable(union.get("discriminator")):  # a function, which may look at what is not there on the wire
        return own < _PLAIN or level > own
    if union.get("mode") == "left_to_right":
        return is_earlier
    return level > own or (level == own and is_earlier)


class Rivals:
    """Tells how members of unions take each other's values; each pair is worked out once.

    Args:
        refs: the schemas that others refer to.
        coerces_numbers: a text may be made of a number.
    """

    def __init__(self, refs: Mapping[str, Schema], *, coerces_numbers: bool) -> None:
        self._refs = refs
        self._lax = _LAX if not coerces_numbers else {**_LAX, "text": _NUMBERS | {"bytes"}}
        self._known: dict[tuple[int, int], Take | None] = {}
        self._kept: list[Schema] = []  # the ids above are theirs

    def own_level(self, node: Schema) -> int:
        """How well a value of `node` suits `node`."""
        return _PLAIN if self._is_plain(node, set()) else _MADE

    def _is_plain(self, node: Schema, seen: set[int]) -> bool:
        if id(node) in seen:
            return True
        seen.add(id(node))
        parts = shapes(node, self._refs)
        return all(_is_kept(shape) and all(self._is_plain(part, seen) for part in _parts(shape)) for shape in parts)

    def take(self, taker: Schema, node: Schema) -> Take | None:
        """How `taker` takes values of `node`; None if it takes none."""
        if taker is node or taker == node:
            return Take(self.own_level(node), False)
        key = (id(taker), id(node))
        if key not in self._known:
            self._kept += taker, node
            self._known[key] = Take(_PLAIN, True)  # for classes that hold themselves: better refused
            pairs = ((b, a) for a in shapes(node, self._refs) for b in shapes(taker, self._refs))
            self._known[key] = _joint(self._take(b, a) for b, a in pairs)
        return self._known[key]

    def _take(self, taker: Shape, shape: Shape) -> Take | None:
        if isinstance(shape, Opaque) or taker.takes_all:
            is_none = isinstance(taker, Scalar) and taker.kind == "none"
            return None if is_none else Take(_NEAR, True)
        if isinstance(taker, Free):
            return Take(_MADE, bool(shape.tag) or not isinstance(shape, Scalar | Values | Free))
        if isinstance(shape, Free):
            return Take(_NEAR, not (isinstance(taker, Scalar) and taker.kind == "none"))
        if isinstance(shape, Scalar | Values) and isinstance(taker, Scalar | Values):
            return self._take_scalar(taker, shape)
        if isinstance(shape, Items) and isinstance(taker, Items):
            return self._take_items(taker, shape)
        if isinstance(shape, Fields | Entries) and isinstance(taker, Fields | Entries):
            return self._take_map(taker, shape)
        return self._take_other(taker, shape)

    def _take_scalar(self, taker: Scalar | Values, shape: Scalar | Values) -> Take | None:
        if isinstance(taker, Values):
            return _take_for_values(taker, shape)
        lax = self._lax[taker.kind]
        if isinstance(shape, Scalar):
            return _of_kind(taker, shape.tag, shape.kind, is_lax=shape.kind in lax)
        kinds = {value: _kind_of(value) for value in shape.values}
        return _joint(
            _of_kind(taker, shape.tag, kind, is_lax=kind in lax and (kind != "text" or _accepts(taker.kind, value)))
            for value, kind in kinds.items()
        )

    def _take_items(self, taker: Items, shape: Items) -> Take | None:
        takes: list[Take | None] = []
        for i in range(max(len(shape.fixed), len(taker.fixed))):
            item, wanted = _at(shape, i), _at(taker, i)
            take = self.take(wanted, item) if wanted is not None and item is not None else None
            if take is None and (i < len(shape.fixed) or i < taker.required):
                return None
            takes.append(take)
        if shape.rest is not None and taker.rest is not None:
            takes.append(self.take(taker.rest, shape.rest))
        if not any(takes) and (taker.tag == shape.tag or shape.fixed):  # only empty ones
            return None
        return _whole(taker, shape, takes)

    def _take_map(self, taker: Fields | Entries, shape: Fields | Entries) -> Take | None:
        if isinstance(taker, Fields):
            return self._take_fields(taker, shape)
        if isinstance(shape, Fields):
            names: list[Schema] = [{"type": "literal", "expected": [name]} for name in shape.always]
            takes = [self.take(taker.keys, name) for name in names]
            takes += [self.take(taker.values, shape.fields[name]) for name in shape.always]
            return None if None in takes else _whole(taker, shape, takes)
        takes = [self.take(taker.keys, shape.keys), self.take(taker.values, shape.values)]
        if None in takes and taker.tag == shape.tag:  # only empty ones
            return None
        return _whole(taker, shape, takes)

    def _take_fields(self, taker: Fields, shape: Fields | Entries) -> Take | None:
        if isinstance(shape, Entries):
            given, always, is_open = dict.fromkeys(taker.fields, shape.values), frozenset[str](), True
        else:
            given, always, is_open = dict(shape.fields), shape.always, shape.extra == "allow"
        if taker.required - given.keys() and not is_open:
            return None
        if taker.extra == "forbid" and always - taker.fields.keys():
            return None
        common = [name for name in taker.fields if name in given or is_open]
        takes = {name: self.take(taker.fields[name], given.get(name, ANY)) for name in common}
        if any(take is None and name in always | taker.required for name, take in takes.items()):
            return None
        if not any(takes.values()):  # it has no field to count, and a class has
            return Take(_MADE if isinstance(shape, Entries) else _NONE, True)
        return Take(_NEAR, taker.tag != shape.tag or any(take.differs for take in takes.values() if take))

    def _take_other(self, taker: Shape, shape: Shape) -> Take | None:
        """A named tuple is also made of a map."""
        if isinstance(taker, Items) and taker.arguments is not None and isinstance(shape, Fields | Entries):
            return self._take_fields(taker.arguments, shape)
        return None


def _whole(taker: Shape, shape: Shape, takes: Iterable[Take | None]) -> Take:
    """How a container is taken whose parts are taken so."""
    found = [take for take in takes if take is not None]
    differs = taker.tag != shape.tag or any(take.differs for take in found)
    if not taker.tag and taker.tag != shape.tag and isinstance(shape, Items | Entries):
        return Take(_PLAIN, True)  # both may be empty
    levels = [take.level for take in found]
    if taker.tag:
        return Take(_NEAR if _NEAR in levels else _MADE, differs)
    return Take(_NEAR if _NEAR in levels else min(levels, default=_PLAIN), differs)


# -- values without parts -----------------------------------------------------------------------------


def _take_for_values(taker: Values, shape: Scalar | Values) -> Take | None:
    if isinstance(shape, Scalar):
        takes = (_is_of(taker, value, shape.kind) for value in taker.values)
    else:
        takes = (_is_like(taker, value, other) for value in taker.values for other in shape.values)
    differs = [taker.tag != shape.tag or is_other for is_other in takes if is_other is not None]
    return Take(_PLAIN if taker.is_literal else _MADE, any(differs)) if differs else None


def _of_kind(taker: Scalar, tag: object, kind: str, *, is_lax: bool) -> Take | None:
    """How a value of a `kind` on the wire is taken, which is a `tag`."""
    if kind in _EXACT.get(taker.kind, ()):
        is_near = kind != taker.kind and kind in _NUMBERS
        return Take(_NEAR if is_near else _PLAIN, tag != taker.tag or is_near)
    return Take(_MADE, tag != taker.tag or not tag) if is_lax else None


def _is_of(taker: Values, value: Any, kind: str) -> bool | None:
    """Whether `value`, one of the taker's, is another than the one of the `kind` that it takes; None if it takes none
    of that kind."""
    its = _kind_of(value)
    if kind in _NUMBERS and its in _NUMBERS:
        return kind != its
    value = str(value) if its in _NUMBERS and _takes_texts(taker) else value
    if kind == its:
        return False
    return True if isinstance(value, str) and kind in _TEXTS and _is_written(kind, value) else None


def _is_like(taker: Values, value: Any, other: Any) -> bool | None:
    """Whether `value`, one of the taker's, which takes `other`, is another; None if it does not take it."""
    if value == other:
        return type(value) is not type(other)
    return True if _takes_texts(taker) and str(value) == other else None


def _takes_texts(taker: Values) -> bool:
    """Whether its numbers are also made of texts."""
    return not taker.is_literal and isinstance(taker.tag, type) and issubclass(taker.tag, int)


def _kind_of(value: Any) -> str:
    return {"NoneType": "none", "str": "text"}.get(name := type(value).__name__, name)


_PARSERS: dict[str, Callable[[Any], object]] = {
    "text": str.encode,
    "path": Path,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "none": {None: None}.__getitem__,
}


def _parsed(kind: str, value: Any) -> Any:
    core: Any = sys.modules["pydantic_core"]
    parse = _PARSERS.get(kind) or core.SchemaValidator({"type": "str" if kind == "text" else kind}).validate_python
    return parse(value)


def _accepts(kind: str, value: Any) -> bool:
    """Whether something of a `kind` is made of this value."""
    try:
        _parsed(kind, value)
    except Exception:  # noqa: BLE001 - of many parsers
        return False
    return True


def _is_written(kind: str, text: str) -> bool:
    """Whether something of a `kind` is this text on the wire."""
    if kind == "text" or not _accepts(kind, text):
        return kind == "text"
    core: Any = sys.modules["pydantic_core"]
    return bool(msgspec.to_builtins(_parsed(kind, text), enc_hook=core.to_jsonable_python) == text)


def _joint(takes: Iterable[Take | None]) -> Take | None:
    """The most that could happen, of all that could; None if nothing could."""
    found = [take for take in takes if take is not None]
    other = [take for take in found if take.differs]
    return max(other or found, default=None)


def _is_kept(shape: Shape) -> bool:
    """Whether a value needs no change, or is the first that would be taken."""
    return not shape.tag or (isinstance(shape, Values) and shape.is_literal)


def _parts(shape: Shape) -> Iterator[Schema]:
    if isinstance(shape, Items):
        yield from shape.fixed
        if shape.rest is not None:
            yield shape.rest
    elif isinstance(shape, Entries):
        yield from (shape.keys, shape.values)
    elif isinstance(shape, Fields):
        yield from shape.fields.values()


def _at(shape: Items, i: int) -> Schema | None:
    return shape.fixed[i] if i < len(shape.fixed) else shape.rest
