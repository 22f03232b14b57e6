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
from typing import Any, NamedTuple, TypeAlias

import msgspec

from catga.codec.model_shapes import (
    ANY,
    Entries,
    Fields,
    Free,
    Items,
    Made,
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
    "path": _TEXTS | {"bytes"},
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
    """How a member could take a value of another one."""

    level: int
    differs: bool
    """Whether it makes another value of it."""


Takes: TypeAlias = frozenset[Take]
"""All the ways in which values of a member could be taken; nothing if none is."""
_NOT: Takes = frozenset()
_KEPT: Takes = frozenset({Take(_PLAIN, False)})
_STOLEN: Takes = frozenset({Take(_NEAR, True)})


def confusions(union: Schema, rivals: "Rivals") -> Iterator[tuple[Schema, Schema]]:
    """The pairs of members of `union` of which a value of the first could come back as one of the second."""
    if union["type"] == "tagged-union" and not callable(union["discriminator"]):
        return
    listed = members(union)
    for i, member in enumerate(listed):
        for j, other in enumerate(listed):
            own, taken = rivals.own_level(member), rivals.takes(other, member) if i != j else _NOT
            if any(take.differs and _wins(union, take.level, own, is_earlier=j < i) for take in taken):
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
        self._known: dict[tuple[int, int], Takes] = {}
        self._kept: list[Schema] = []  # the ids above are theirs

    def own_level(self, node: Schema) -> int:
        """How well a value of `node` suits `node`, at least."""
        return _PLAIN if self._is_plain(node, set()) else _MADE

    def _is_plain(self, node: Schema, seen: set[int]) -> bool:
        if id(node) in seen:
            return True
        seen.add(id(node))
        parts = shapes(node, self._refs)
        return all(_is_kept(shape) and all(self._is_plain(part, seen) for part in _parts(shape)) for shape in parts)

    def takes(self, taker: Schema, node: Schema) -> Takes:
        """How `taker` could take values of `node`."""
        taker, node = self._referred(taker), self._referred(node)
        if taker is node:
            return _KEPT | {Take(self.own_level(node), False)}
        key = (id(taker), id(node))
        if key not in self._known:
            self._kept += taker, node
            self._known[key] = frozenset({Take(_PLAIN, True)})  # for classes that hold themselves: better refused
            pairs = ((b, a) for a in shapes(node, self._refs) for b in shapes(taker, self._refs))
            self._known[key] = _NOT.union(*(self._takes(b, a) for b, a in pairs))
        return self._known[key]

    def _referred(self, node: Schema) -> Schema:
        while node["type"] == "definition-ref":
            node = self._refs[node["schema_ref"]]
        return node

    def _takes(self, taker: Shape, shape: Shape) -> Takes:
        if isinstance(shape, Made) or isinstance(taker, Made):
            return _STOLEN if isinstance(taker, Free) else _NOT  # for what may be anything msgspec makes nothing
        if isinstance(taker, Scalar) and taker.kind == "none" and isinstance(shape, Opaque | Free):
            return _KEPT  # None, of all that there may be
        if isinstance(shape, Opaque | Free) or taker.takes_all:
            return _STOLEN
        if isinstance(taker, Free):
            return frozenset({Take(_MADE, bool(shape.tag) or not isinstance(shape, Scalar | Values))})
        if isinstance(shape, Scalar | Values) and isinstance(taker, Scalar | Values):
            return self._takes_scalar(taker, shape)
        if isinstance(shape, Items) and isinstance(taker, Items):
            return self._takes_items(taker, shape)
        if isinstance(shape, Fields | Entries):
            return self._takes_map(taker, shape)
        return _NOT

    def _takes_scalar(self, taker: Scalar | Values, shape: Scalar | Values) -> Takes:
        if isinstance(taker, Values):
            return _takes_for_values(taker, shape)
        if isinstance(shape, Scalar):
            return _of_kind(taker, shape.tag, shape.kind, is_lax=shape.kind in self._lax[taker.kind])
        taken = (self._takes_value(taker, shape.tag, value) for value in shape.values)
        return _NOT.union(*taken)

    def _takes_value(self, taker: Scalar, tag: object, value: Any) -> Takes:
        kind = _kind_of(value)
        is_lax = kind in self._lax[taker.kind] and (taker.kind == "text" or _accepts(taker.kind, value))
        return _of_kind(taker, tag, kind, is_lax=is_lax)

    def _takes_items(self, taker: Items, shape: Items) -> Takes:
        parts: list[Takes] = []
        for i in range(max(len(shape.fixed), len(taker.fixed))):
            item, wanted = _at(shape, i), _at(taker, i)
            takes = self.takes(wanted, item) if wanted is not None and item is not None else _NOT
            if i < len(shape.fixed) or i < taker.required:
                parts.append(takes)
        if shape.rest is not None and taker.rest is not None:
            parts.append(self.takes(taker.rest, shape.rest) | _KEPT)  # there may be none
        return _whole(taker, shape, parts)

    def _takes_map(self, taker: Shape, shape: Fields | Entries) -> Takes:
        if isinstance(taker, Items):
            return self._takes_fields(taker.arguments, shape) if taker.arguments is not None else _NOT
        if isinstance(taker, Fields):
            return self._takes_fields(taker, shape)
        if not isinstance(taker, Entries):
            return _NOT
        if isinstance(shape, Entries):
            entry = _together([self.takes(taker.keys, shape.keys), self.takes(taker.values, shape.values)])
            return _whole(taker, shape, [entry | _KEPT])
        names: list[Schema] = [{"type": "literal", "expected": [name]} for name in shape.always]
        keys = [self.takes(taker.keys, name) for name in names]
        return _whole(taker, shape, [*keys, *(self.takes(taker.values, shape.fields[name]) for name in shape.always)])

    def _takes_fields(self, taker: Fields, shape: Fields | Entries) -> Takes:
        if isinstance(shape, Entries):
            given, always, is_open = dict.fromkeys(taker.fields, shape.values), frozenset[str](), True
        else:
            given, always, is_open = dict(shape.fields), shape.always, shape.extra == "allow"
        if taker.required - given.keys() and not is_open:
            return _NOT
        if taker.extra == "forbid" and always - taker.fields.keys():
            return _NOT
        common = [name for name in taker.fields if name in given or is_open]
        takes = {name: self.takes(taker.fields[name], given.get(name, ANY)) for name in common}
        if not any(takes.values()) and not taker.required:  # it has no field to count, and a class has
            return frozenset({Take(_NONE if always and not is_open else _NEAR, True)})
        parts = [part for name, part in takes.items() if part or name in always | taker.required]
        return frozenset(Take(_NEAR, taker.tag != shape.tag or take.differs) for take in _together(parts))


def _together(parts: Iterable[Takes]) -> Takes:
    """How something is taken of which all these parts have to be."""
    found = _KEPT
    for part in parts:
        found = frozenset(_both(one, other) for one in found for other in part)
    return found


def _both(one: Take, other: Take) -> Take:
    levels = (one.level, other.level)
    return Take(_NEAR if _NEAR in levels else min(levels), one.differs or other.differs)


def _whole(taker: Shape, shape: Shape, parts: Iterable[Takes]) -> Takes:
    """How a container is taken whose parts are taken so."""
    is_other = taker.tag != shape.tag
    return frozenset(
        Take(min(take.level, _MADE) if taker.tag and take.level != _NEAR else take.level, is_other or take.differs)
        for take in _together(parts)
    )


# -- values without parts -----------------------------------------------------------------------------


def _takes_for_values(taker: Values, shape: Scalar | Values) -> Takes:
    if isinstance(shape, Scalar):
        others = (_is_of(taker, value, shape.kind) for value in taker.values)
    else:
        others = (_is_like(taker, value, other) for value in taker.values for other in shape.values)
    level, differs = _PLAIN if taker.is_literal else _MADE, taker.tag != shape.tag
    return frozenset(Take(level, differs or is_other) for is_other in others if is_other is not None)


def _of_kind(taker: Scalar, tag: object, kind: str, *, is_lax: bool) -> Takes:
    """How a value of a `kind` on the wire is taken, which is a `tag`."""
    if kind in _EXACT.get(taker.kind, ()):
        is_near = kind != taker.kind and kind in _NUMBERS
        return frozenset({Take(_NEAR if is_near else _PLAIN, tag != taker.tag or is_near)})
    return frozenset({Take(_MADE, tag != taker.tag or not tag)}) if is_lax else _NOT


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
    return True if _takes_texts(taker) and _reads_as(value, other) else None


def _reads_as(value: Any, text: Any) -> bool:
    """Whether a number is made of this text: also of ``"01"``, or ``"1.0"``."""
    kind = _kind_of(value)
    return isinstance(text, str) and _accepts(kind, text) and bool(_parsed(kind, text) == value)


def _takes_texts(taker: Values) -> bool:
    """Whether its numbers are also made of texts."""
    return not taker.is_literal and isinstance(taker.tag, type) and issubclass(taker.tag, int | float)


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
