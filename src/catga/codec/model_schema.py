"""What a pydantic model holds, read from its core schema: what msgspec has to make, what would be lost."""

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from catga.codec.model_shapes import Schema, is_dict, is_list, is_plain, named
from catga.codec.model_unions import Rivals, confusions

_NO_SCHEMAS = frozenset(
    {"computed_fields", "default", "definitions", "expected", "members", "metadata", "serialization"}
)
_CONTENTS = frozenset({"fields", "items_schema", "keys_schema", "values_schema", "extras_schema"})
_OBJECTS = frozenset({"callable", "generator", "is-instance", "is-subclass"})
_CLASSES = frozenset({"dataclass", "model"})
_SETS = frozenset({"frozenset", "set"})
_UNHASHABLE = _CLASSES | {"deque", "dict", "list", "set", "typed-dict"}
_UNIONS = frozenset({"nullable", "tagged-union", "union"})


def model_obstacles(model: Any, *, takes_names: bool) -> Iterator[str]:
    """What of the fields of `model`, and of all that they hold, does not come through.

    Args:
        takes_names: this pydantic takes all fields by name, and not those that have an alias by their alias alone.

    Raises:
        NameError: an annotation cannot be resolved.
    """
    schema, refs = _schema_of(model)
    nodes = list(_walk(schema, model.__qualname__, refs))
    by_name = {where for where, node in nodes if node.get("config", {}).get("populate_by_name")}
    rivals = Rivals(refs, coerces_numbers=any(map(_coerces_numbers, (node for _, node in nodes))))
    for where, node in nodes:
        if "validation_alias" in node and not takes_names and where.rpartition(".")[0] not in by_name:
            yield f"{where} has an alias: use pydantic 2.11, or populate_by_name"
        if text := _obstacle(node) or _unhashable(node, refs) or _confusion(node, refs, rivals):
            yield f"{where} {text}"


def _obstacle(node: Schema) -> str | None:
    """What of one node does not come through."""
    kind = node["type"]
    if kind == "model" and (variable := _open_variable(node["cls"])) is not None:
        return (
            f"leaves the type variable {variable} open, so that it holds anything: say {node['cls'].__qualname__}[...]"
        )
    if node.get("serialization_exclude") or node.get("serialization_exclude_if"):
        return "is left out by Field(exclude=...): make it a private attribute"
    if kind == "literal" and any(_arrives_as_value(value, node["expected"]) for value in node["expected"]):
        return "is a Literal of an enum's members that arrive as their values: name the enum, or make it a StrEnum"
    if kind == "enum" and not is_plain(member.value for member in node["members"]):
        return f"holds a {node['cls']!r}, whose values are more than text, bytes and numbers"
    if kind in _OBJECTS and not _is_for_msgspec(node):
        return f"holds a {node.get('cls', kind)!r}, which has no encoding"
    return None


def _open_variable(model: Any) -> Any:
    """A type variable of a generic model for which pydantic takes anything; None if there is none."""
    generic: Mapping[str, Any] = getattr(model, "__pydantic_generic_metadata__", {})
    for variable in generic.get("parameters", ()):
        if not (_is_bound(variable) or _has_default(variable)):
            return variable
    return None


def _is_bound(variable: Any) -> bool:
    """Whether it says of what it is; the variables of several types, or of parameters, cannot."""
    return isinstance(variable, TypeVar) and (variable.__bound__ is not None or bool(variable.__constraints__))


def _has_default(variable: Any) -> bool:
    """Whether it has a default: those of Python 3.13 and of `typing_extensions` can."""
    has_default: Callable[[], bool] | None = getattr(variable, "has_default", None)
    return has_default is not None and has_default()


def _unhashable(node: Schema, refs: Mapping[str, Schema]) -> str | None:
    """What is wrong with a set, or with the keys of a dict."""
    held = node.get("keys_schema" if "keys_schema" in node else "items_schema" if node["type"] in _SETS else "")
    for _, child in _walk(held, "", refs) if is_dict(held) else ():
        if child["type"] in _UNHASHABLE and not child.get("root_model"):
            return f"holds {named(child, refs)} in a set or as a key, and pydantic writes dicts or lists: use a list"
    return None


def _arrives_as_value(member: Any, others: Iterable[Any]) -> bool:
    """Whether a value of a Literal is an enum's member that pydantic does not find by its value, or finds another."""
    if not isinstance(member, enum.Enum):
        return False
    return not isinstance(member, str | int) or any(
        member == other for other in others if type(other) is not type(member)
    )


def _confusion(node: Schema, refs: Mapping[str, Schema], rivals: Rivals) -> str | None:
    """What is wrong with a union."""
    if node["type"] not in _UNIONS:
        return None
    for member, other in confusions(node, rivals):
        return (
            f"is a union of types that look alike on the wire: {named(member, refs)} could arrive as "
            f"{named(other, refs)}; give them a discriminator, or use one of them, or another type"
        )
    return None


def _coerces_numbers(node: Schema) -> bool:
    return bool(node.get("coerce_numbers_to_str") or node.get("config", {}).get("coerce_numbers_to_str"))


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
    where = schema["cls"].__qualname__ if schema["type"] in _CLASSES else where
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
    elif is_list(value):
        for child in value:
            yield from _children(child)


def _is_for_msgspec(node: Schema) -> bool:
    """Whether it is a class that msgspec makes, and pydantic only takes as it is."""
    if node["type"] != "is-instance" or not isinstance(node["cls"], type):
        return False
    return not isinstance(msgspec.inspect.type_info(node["cls"]), msgspec.inspect.CustomType)
