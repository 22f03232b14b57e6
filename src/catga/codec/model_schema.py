"""What a pydantic model holds, read from its core schema: what msgspec has to make, what would be lost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import msgspec

Schema: TypeAlias = Mapping[str, Any]

_NO_SCHEMAS = frozenset(
    {"computed_fields", "default", "definitions", "expected", "members", "metadata", "serialization"}
)
_CONTENTS = frozenset({"fields", "items_schema", "keys_schema", "values_schema", "extras_schema"})
_OBJECTS = frozenset({"callable", "generator", "is-instance", "is-subclass"})
_TEXTS = frozenset({"complex", "date", "datetime", "decimal", "multi-host-url", "time", "timedelta", "url", "uuid"})
_LISTS = frozenset({"call", "frozenset", "set", "tuple"})
_MAPS = frozenset({"dataclass", "model"})
_SCALARS = ("bool", "bytes", "float", "int")
_EXACT = {"str": "text", "list": "list", "dict": "map", "typed-dict": "map", **{kind: kind for kind in _SCALARS}}


def model_obstacles(model: Any, *, takes_names: bool) -> Iterator[str]:
    """What of the fields of `model`, and of all that they hold, does not come through.

    Args:
        takes_names: this pydantic takes all fields by name, and not those that have an alias by their alias alone.

    Raises:
        NameError: an annotation cannot be resolved.
    """
    schema, refs = _schema_of(model)
    by_name: set[str] = set()
    for where, node in _walk(schema, model.__qualname__, refs):
        kind = node["type"]
        if node.get("config", {}).get("populate_by_name"):
            by_name.add(where)
        if "validation_alias" in node and not takes_names and where.rpartition(".")[0] not in by_name:
            yield f"{where} has an alias: use pydantic 2.11, or populate_by_name"
        if node.get("serialization_exclude"):
            yield f"{where} is left out by Field(exclude=True): make it a private attribute"
        if kind == "union" and _is_ambiguous(list(_forms(node, refs))):
            text = f"{where} is a union of types that look alike on the wire: one would arrive as another"
            yield text
        if kind in _OBJECTS and not _is_for_msgspec(node):
            yield f"{where} holds a {node.get('cls', kind)!r}, which has no encoding"


def fields_for_msgspec(model: Any) -> dict[str, Any]:
    """The fields that hold a Struct or an attrs object somewhere, with their types; "" is all of a root model."""
    schema, refs = _schema_of(model)
    types = {name: field.annotation for name, field in model.model_fields.items()}
    if not any(_is_for_msgspec(node) for _, node in _walk(schema, "", refs)):
        return {}
    fields = _fields(schema, refs)
    if fields is None:
        return {"": types["root"]}
    return {
        name: types[name]
        for name, field in fields.items()
        if any(_is_for_msgspec(node) for _, node in _walk(field, "", refs))
    }


def _schema_of(model: Any) -> tuple[Schema, dict[str, Schema]]:
    model.model_rebuild()  # nothing, unless an annotation was not defined yet
    schema: Schema = model.__pydantic_core_schema__
    return schema, {known["ref"]: known for known in schema.get("definitions", ())}


def _fields(schema: Schema, refs: Mapping[str, Schema]) -> Mapping[str, Schema] | None:
    """The fields of a model by name; None of a root model."""
    while schema["type"] != "model-fields":
        if schema.get("root_model"):
            return None
        schema = refs[schema["schema_ref"]] if schema["type"] == "definition-ref" else schema["schema"]
    fields: Mapping[str, Schema] = schema["fields"]
    return fields


def _walk(
    schema: Schema, where: str, refs: Mapping[str, Schema], seen: set[str] | None = None, *, is_told: bool = False
) -> Iterator[tuple[str, Schema]]:
    """`schema` and all in it, each with the field that it is of, but for what a serializer writes in its own way."""
    seen = set() if seen is None else seen
    serializer = schema.get("serialization", {}).get("type", "function-wrap")
    if serializer != "function-wrap":
        return
    if schema["type"] == "definition-ref":
        if (ref := schema["schema_ref"]) not in seen:
            seen.add(ref)
            yield from _walk(refs[ref], where, refs, seen)
        return
    is_told = is_told or "serialization" in schema
    where = schema["cls"].__qualname__ if schema["type"] in _MAPS else where
    if not (is_told and schema["type"] in _OBJECTS):
        yield where, schema
    for key, value in schema.items():
        if key not in _NO_SCHEMAS:
            for name, child in _children(value):
                at = f"{where}.{child.get('name', name)}" if key == "fields" else where
                yield from _walk(child, at, refs, seen, is_told=is_told and key not in _CONTENTS)


def _children(value: object, name: str = "") -> Iterator[tuple[str, Schema]]:
    """The schemas in a value of a schema: it may be one, or hold some in lists and by name."""
    if is_dict(value):
        if isinstance(value.get("type"), str):
            yield name, value
        else:
            for key, child in value.items():
                yield from _children(child, key)
    elif _is_list(value):
        for child in value:
            yield from _children(child)


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether `value` is a dictionary."""
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)


def _is_for_msgspec(node: Schema) -> bool:
    """Whether it is a class that msgspec makes, and pydantic only takes as it is."""
    if node["type"] != "is-instance" or not isinstance(node["cls"], type):
        return False
    return not isinstance(msgspec.inspect.type_info(node["cls"]), msgspec.inspect.CustomType)


def _is_ambiguous(members: Sequence[tuple[str, str]]) -> bool:
    """Whether pydantic would take one of the `members` of a union for another when it comes over the wire."""
    made = [kind or form for form, kind in members]
    exact = {form for form, kind in members if not kind}
    others = {form for form, kind in members if kind}
    if exact & others or {"date", "datetime"} <= set(made):  # what needs no change goes first
        return True
    if len({kind for form, kind in members if form == "list" and kind}) > 1:
        return True
    return any(_is_hidden(kind, set(made[:i])) for i, kind in enumerate(made))


def _is_hidden(kind: str, earlier: set[str]) -> bool:
    """Whether a member of a union would be taken for an `earlier` one, which takes text, too."""
    if kind in ("decimal", "serialized") and earlier & {"bool", "float", "int"}:
        return True
    return kind in _TEXTS | {"enum", "serialized"} and "bytes" in earlier


def _forms(node: Schema, refs: Mapping[str, Schema]) -> Iterator[tuple[str, str]]:
    """What a value of `node` is on the wire, and what it is made to from there: nothing, if it stays that."""
    kind = node["type"]
    if node.get("serialization", {}).get("type", "function-wrap") != "function-wrap":
        yield "text", "serialized"
    elif kind in _EXACT:
        yield _EXACT[kind], ""
    elif kind == "enum":
        yield from {
            ("text" if isinstance(member.value, str) else type(member.value).__name__, kind)
            for member in node["members"]
        }
    elif kind in _TEXTS | _LISTS | _MAPS:
        yield "text" if kind in _TEXTS else "list" if kind in _LISTS else "map", kind
    elif kind == "definition-ref":
        yield from _forms(refs[node["schema_ref"]], refs)
    elif kind == "union":
        for _, choice in _children(node["choices"]):
            yield from _forms(choice, refs)
    else:
        for _, inner in _children(node.get("json_schema") or node.get("lax_schema") or node.get("schema")):
            yield from _forms(inner, refs)
