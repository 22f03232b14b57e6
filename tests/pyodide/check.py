"""The reading of annotations, on Python 3.14 in pyodide, with a stand-in for msgspec, which is not there."""

import dataclasses
import sys
from types import ModuleType
from typing import Any

SOURCES, CASES = sys.argv[1:]


class Struct:
    """As much of `msgspec.Struct` as options need."""

    def __init_subclass__(cls, *, frozen: bool = False, **_: Any) -> None:
        super().__init_subclass__()
        dataclasses.dataclass(frozen=frozen)(cls)


def package(name: str, *path: str, **names: Any) -> None:
    module = ModuleType(name)
    vars(module).update(names, __path__=list(path))
    sys.modules[name] = module


structs = ModuleType("msgspec.structs")
package("msgspec", Struct=Struct, structs=structs)
for name in ("", ".mediator", ".routing"):
    package(f"catga{name}", f"{SOURCES}/catga{name.replace('.', '/')}")
sys.path.insert(0, CASES)

import deferred_cases as cases  # noqa: E402

from catga.errors import InvalidMessageError  # noqa: E402
from catga.hints import annotations_of, field_type  # noqa: E402
from catga.keys import check_key  # noqa: E402
from catga.mediator.annotations import message_type_of, parameter_of, returned, returns_plain_value  # noqa: E402
from catga.messages import key_of, message, response_type  # noqa: E402

assert sys.version_info >= (3, 14)
for handler in (cases.hidden_option, cases.hidden_answer):
    assert message_type_of(handler, None) is cases.Ask
    assert parameter_of(handler).name == "ask"
assert message_type_of(cases.early, None) is cases.Defined
assert returned(cases.hidden_option) is int
assert returned(cases.hidden_answer) is Any
assert not returns_plain_value(cases.hidden_answer)
told = ""
try:
    message_type_of(cases.hidden_message, None)
except InvalidMessageError as error:
    told = str(error)
assert "the annotation 'Nowhere' of" in told

check_key(cases.Keyed)
keyed = cases.Keyed()
keyed.sku = "tea"
assert key_of(keyed) == "tea"
message(key="price")(cases.Hidden)
check_key(cases.Hidden)
assert field_type(cases.Keyed, "sku") is str
assert field_type(cases.Keyed, "price") is None
assert {*annotations_of(cases.Hidden)} == {"sku", "price"}
assert response_type(cases.Later) == list[cases.Row]
print(f"Python {sys.version.split()[0]} in pyodide: annotations are read as they should be")
