"""What a value of a pydantic schema is on the wire, and what pydantic makes of it there."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, Flag
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import Any, TypeAlias, TypeGuard

Schema: TypeAlias = Mapping[str, Any]

_SCALARS = {"str": "text", **{kind: kind for kind in ("bool", "bytes", "float", "int", "none")}}
_TEXTS = frozenset(
    {"complex", "date", "datetime", "decimal", "multi-host-url", "time", "timedelta", "url", "uuid"},
)
_LISTS = frozenset({"deque", "frozenset", "list", "set", "tuple"})
_DICTS = frozenset({"counter", "defaultdict", "dict", "ordered-dict"})
_TEXT_CLASSES = {PurePath: "path", IPv4Address: "ipv4", IPv6Address: "ipv6"}
"""What has no kind of its own in a schema, and is a text on the wire."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Shape:
    """One kind of values."""

    tag: object = ""
    """What pydantic makes of what comes over the wire; nothing if it stays that."""
    takes_all: bool = False
    """Whether the value may be made of anything, as code of the user's looks at it first."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Opaque(Shape):
    """Anything on the wire, and whatever code of the user's makes of it."""

    tag: object = "?"
    takes_all: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Free(Shape):
    """Anything on the wire, and the same in memory."""

    tag: object = "any"


@dataclass(frozen=True, eq=False, kw_only=True)
class Made(Shape):
    """A Struct or an attrs object, which msgspec makes before pydantic looks, by its own rules."""

    tag: object = "made"


@dataclass(frozen=True, eq=False, kw_only=True)
class Scalar(Shape):
    """A value without parts."""

    kind: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Values(Shape):
    """One of these values. The tag is the enum that they are of."""

    values: tuple[Any, ...]
    is_literal: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Items(Shape):
    """A list on the wire."""

    fixed: tuple[Schema, ...] = ()
    required: int = 0
    """How many of the fixed ones there must be on arrival."""
    rest: Schema | None = None
    arguments: "Fields | None" = None
    """A map that it may be made of as well."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Entries(Shape):
    """A map on the wire, of any keys."""

    keys: Schema
    values: Schema


@dataclass(frozen=True, eq=False, kw_only=True)
class Fields(Shape):
    """A map on the wire, of known keys."""

    fields: Mapping[str, Schema]
    required: frozenset[str]
    always: frozenset[str]
    """Fields that are always there on the wire."""
    extra: str = "ignore"


ANY: Schema = {"type": "any"}


def shapes(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    """The kinds of values that `node` stands for, each once for each member of a union."""
    kind = node["type"]
    if kind == "definition-ref":
        return shapes(refs[node["schema_ref"]], refs)
    if _is_written_by_code(node):
        return [_known(node)]
    if kind in _SCALARS:
        return [Scalar(kind=_SCALARS[kind])]
    if kind in _TEXTS:
        return [Scalar(kind=kind, tag=kind)]
    if kind.startswith("function-") and "schema" in node:
        return [_passed(shape, kind, node["function"]) for shape in shapes(node["schema"], refs)]
    if kind in _MAKERS:
        return _MAKERS[kind](node, refs)
    inner = node.get("json_schema") or node.get("lax_schema") or node.get("schema")
    return [_known(node)] if inner is None else shapes(inner, refs)


def members(node: Schema) -> list[Schema]:
    """The members of a union; of anything else, itself."""
    if node["type"] == "nullable":
        return [{"type": "none"}, node["schema"]]
    if node["type"] not in ("union", "tagged-union"):
        return [node]
    choices = node["choices"]
    listed: list[Any] = [*choices.values()] if is_dict(choices) else [*choices]
    return [choice[0] if is_list(choice) else choice for choice in listed]


def named(node: Schema, refs: Mapping[str, Schema], depth: int = 3) -> str:
    """How a type is called: by the name of its class, or by what pydantic calls it."""
    if node["type"] == "definition-ref":
        return named(refs[node["schema_ref"]], refs, depth)
    if node["type"] == "literal":
        return f"Literal{list(node['expected'])}"
    for cls in (node.get("cls"), *_instances(node), _plain(node["function"]) if "function" in node else None):
        if isinstance(cls, type):
            return cls.__qualname__
    parts = [node[key] for key in ("keys_schema", "items_schema", "values_schema") if isinstance(node.get(key), dict)]
    if parts:
        inside = ", ".join(named(part, refs, depth - 1) for part in parts) if depth else "..."
        return f"{node['type']}[{inside}]"
    inner = node.get("lax_schema") or node.get("json_schema") or node.get("schema")
    return str(node["type"]) if inner is None else named(inner, refs, depth)


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether `value` is a dictionary."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether `value` is a list, or a tuple."""
    return isinstance(value, list | tuple)


def _passed(shape: Shape, kind: str, function: Any) -> Shape:
    """`shape` of values that a function makes, or looks at."""
    function = _plain(function)
    is_made = isinstance(function, type) if kind == "function-after" else _is_of_pydantic(function)
    if is_made:
        return replace(shape, tag=(function, shape.tag))
    return shape if kind == "function-after" else replace(shape, takes_all=True)


def _plain(function: Any) -> Any:
    """A function in a schema, which is told with its arguments, or is partial."""
    function = function["function"] if is_dict(function) else function
    return getattr(function, "func", function)


def _is_of_pydantic(function: Any) -> bool:
    """Whether it is one of pydantic's own."""
    return str(getattr(_plain(function), "__module__", "")).partition(".")[0] in ("pydantic", "pydantic_core")


def _is_written_by_code(node: Schema) -> bool:
    """Whether a function says what a value is on the wire."""
    writer = node.get("serialization", {"type": ""})
    if writer["type"] in ("", "function-wrap"):
        return bool(writer["type"]) and not _is_of_pydantic(writer["function"])
    return True


def _known(node: Schema) -> Shape:
    """A class of the standard library's that pydantic writes as a text, or a URL; else anything."""
    if "function" in node.get("serialization", ()) and _is_of_pydantic(node["serialization"]["function"]):
        kinds = [_TEXT_CLASSES[base] for base in _TEXT_CLASSES for cls in _instances(node) if issubclass(cls, base)]
        kind = (node.get("schema") or node)["type"]
        kinds += [kind] if kind in ("multi-host-url", "url") else []
        if kinds:
            writer = _plain(node["serialization"]["function"])
            return Scalar(kind=kinds[0], tag=(kinds[0], getattr(writer, "__self__", None), *_instances(node)))
    return Opaque()


def _instances(node: Any) -> Iterator[type]:
    """The classes that `node` takes instances of."""
    if is_dict(node):
        if node.get("type") == "is-instance" and isinstance(node["cls"], type):
            yield node["cls"]
        for name in ("strict_schema", "python_schema"):
            yield from _instances(node.get(name))


def is_plain(values: Iterable[object]) -> bool:
    """Whether all are on the wire what they are in memory."""
    return all(value is None or isinstance(value, str | bytes | int | float) for value in values)


# -- one maker a kind ---------------------------------------------------------------------------------


def _union(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    return [shape for member in members(node) for shape in shapes(member, refs)]


def _values(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    if node["type"] == "literal":
        found: dict[object, list[Any]] = {}
        for value in node["expected"]:
            is_member = isinstance(value, Enum)
            found.setdefault(type(value) if is_member else "", []).append(value.value if is_member else value)
        return [Values(tag=tag, values=tuple(values), is_literal=True) for tag, values in found.items()]
    cls, values = node["cls"], tuple(member.value for member in node["members"])
    if issubclass(cls, Flag):
        return [Scalar(kind="int", tag=cls)]
    return [Values(tag=cls, values=values, takes_all="missing" in node)] if is_plain(values) else [Opaque(tag=cls)]


def _items(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    items = node.get("items_schema", ANY)
    tag = "" if node["type"] == "list" else node["type"]
    if node["type"] != "tuple":
        return [Items(tag=tag, rest=items)]
    place = node.get("variadic_item_index")
    fixed = tuple(items if place is None else items[:place])
    return [Items(tag=tag, fixed=fixed, required=len(fixed), rest=None if place is None else items[place])]


def _entries(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    tag = "" if node["type"] == "dict" else node["type"]
    return [Entries(tag=tag, keys=node.get("keys_schema", ANY), values=node.get("values_schema", ANY))]


def _named_tuple(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    fields = _schemas(node["fields"])
    required = frozenset(name for name, field in fields.items() if not _has_default(field))
    arguments = Fields(tag=node["cls"], fields=fields, required=required, always=required, extra="forbid")
    return [Items(tag=node["cls"], fixed=tuple(fields.values()), required=len(required), arguments=arguments)]


def _typed_dict(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    fields = node["fields"]
    required = frozenset(name for name, field in fields.items() if field.get("required", node.get("total", True)))
    extra = node.get("extra_behavior", "ignore")
    return [
        Fields(
            tag=node.get("cls", "typed-dict"), fields=_schemas(fields), required=required, always=required, extra=extra
        )
    ]


def _class(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    """A model or a dataclass."""
    if node.get("root_model"):
        return [replace(shape, tag=(node["cls"], shape.tag)) for shape in shapes(node["schema"], refs)]
    inner, takes_all = _inner(node["schema"], "model-fields", "dataclass-args", refs=refs)
    if inner is None:
        return [Opaque(tag=node["cls"])]
    fields = _schemas(inner["fields"])
    extra = node.get("config", {}).get("extra_fields_behavior") or inner.get("extra_behavior") or "ignore"
    required = frozenset(name for name, field in fields.items() if not _has_default(field))
    takes_all = takes_all or bool(node.get("custom_init"))
    shape = Fields(
        tag=node["cls"], fields=fields, required=required, always=frozenset(fields), extra=extra, takes_all=takes_all
    )
    return [shape]


def _schemas(fields: Any) -> dict[str, Schema]:
    """The fields of a class by name; those of a dataclass come in a list."""
    named_ones = fields.items() if is_dict(fields) else [(field["name"], field) for field in fields]
    return {name: field["schema"] for name, field in named_ones}


def _inner(node: Any, *kinds: str, refs: Mapping[str, Schema] | None = None) -> tuple[Any, bool]:
    """The node of one of the `kinds` within `node`, and whether code of the user's stands before it."""
    takes_all = False
    while node is not None and node["type"] not in kinds:
        takes_all = takes_all or (node["type"].startswith("function-") and node["type"] != "function-after")
        node = refs[node["schema_ref"]] if refs and node["type"] == "definition-ref" else node.get("schema")
    return node, takes_all


def _has_default(field: Schema) -> bool:
    node: Any = field
    while node is not None and node["type"] != "default":
        node = node.get("schema")
    return node is not None


def _opaque(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    return [_known(node)]


def _made(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    return [Made()]


def _free(node: Schema, refs: Mapping[str, Schema]) -> list[Shape]:
    return [Free()]


_MAKERS: dict[str, Callable[[Schema, Mapping[str, Schema]], list[Shape]]] = {
    **dict.fromkeys(("nullable", "union", "tagged-union"), _union),
    **dict.fromkeys(("enum", "literal"), _values),
    **dict.fromkeys(_LISTS, _items),
    **dict.fromkeys(_DICTS, _entries),
    **dict.fromkeys(("model", "dataclass"), _class),
    **dict.fromkeys(("chain", "function-plain", "json"), _opaque),
    "named-tuple": _named_tuple,
    "typed-dict": _typed_dict,
    "any": _free,
    "is-instance": _made,
}
