"""Messages: four kinds of class, options, wire names, response types."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from catga import Event, Request, message
from catga.codec import Codec, encode
from catga.errors import InvalidMessageError
from catga.messages import key_of, options_of, response_type, wire_name

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AsDataclass(Request[int]):
    sku: str
    qty: int = 1


class AsStruct(msgspec.Struct, Request[int], frozen=True):
    sku: str
    qty: int = 1


@attrs.frozen
class AsAttrs(Request[int]):
    sku: str
    qty: int = 1


class AsModel(pydantic.BaseModel, Request[int]):
    sku: str
    qty: int = 1


KINDS: tuple[Callable[..., Any], ...] = (AsDataclass, AsStruct, AsAttrs, AsModel)


@pytest.mark.parametrize("kind", KINDS)
class TestFourKinds:
    def test_travels_and_comes_back_equal(self, kind: Any) -> None:
        sent = kind(sku="ä", qty=3)
        assert Codec(kind).decode(encode(sent)) == sent

    def test_a_wrong_field_is_named_by_its_path(self, kind: Any) -> None:
        with pytest.raises(InvalidMessageError) as caught:
            Codec(kind).decode(msgspec.msgpack.encode({"sku": "a", "qty": "many"}))
        assert caught.value.details["path"] == "$.qty"

    def test_a_missing_field_is_told(self, kind: Any) -> None:
        with pytest.raises(InvalidMessageError, match="sku"):
            Codec(kind).decode(msgspec.msgpack.encode({"qty": 1}))

    @pytest.mark.parametrize(
        "body", [b"", b"\xc1", b"\xff" * 9, b"\xa3\xff\xfe\xfd", b"\x91" * 3000, b"\xdf\xff\xff\xff\xff"]
    )
    def test_garbage_is_an_invalid_message(self, kind: Any, body: bytes) -> None:
        with pytest.raises(InvalidMessageError):
            Codec(kind).decode(body)

    def test_options_do_not_clash_with_fields(self, kind: Any) -> None:
        decorated = message(idempotent=True, key="sku", timeout=2.0, name=f"test.{kind.__name__}")(subclass(kind))
        instance = decorated(sku="k")
        assert options_of(decorated) == options_of(type(instance))
        assert (wire_name(decorated), key_of(instance)) == (f"test.{kind.__name__}", "k")
        assert (Codec(decorated).idempotent, Codec(decorated).timeout) == (True, 2.0)

    def test_the_response_type_is_found(self, kind: Any) -> None:
        assert response_type(kind) is int


def subclass(kind: Any) -> Any:
    return type(f"Sub{kind.__name__}", (kind,), {"__module__": __name__, "__qualname__": f"Sub{kind.__name__}"})


@dataclass(frozen=True)
class Nested(Request[dict[str, list[AsDataclass]]]):
    items: list[AsDataclass]


def test_nested_values_are_decoded_by_their_types() -> None:
    codec = Codec(Nested)
    items = [AsDataclass("a"), AsDataclass("b", 2)]
    assert codec.decode(encode(Nested(items))) == Nested(items)
    assert codec.decode_response(encode({"x": items})) == {"x": items}
    with pytest.raises(InvalidMessageError) as caught:
        codec.decode(msgspec.msgpack.encode({"items": [{"sku": "a"}, {"sku": 1}]}))
    assert caught.value.details["path"] == "$.items[1].sku"


def test_what_cannot_be_encoded_says_so() -> None:
    with pytest.raises(InvalidMessageError, match="cannot be encoded"):
        encode(object())


class TestOptions:
    def test_are_inherited_except_the_name(self) -> None:
        @message(idempotent=True, timeout=1.0, name="base")
        @dataclass(frozen=True)
        class Base(Request[None]):
            pass

        class Derived(Base):
            pass

        assert (options_of(Derived).idempotent, options_of(Derived).timeout) == (True, 1.0)
        assert wire_name(Base) == "base"
        assert wire_name(Derived).endswith(".Derived")

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_a_timeout_is_positive(self, timeout: float) -> None:
        with pytest.raises(InvalidMessageError, match="positive number of seconds"):
            message(timeout=timeout)

    def test_a_key_names_a_field(self) -> None:
        with pytest.raises(InvalidMessageError, match="names no field"):
            message(key="skuu")(AsDataclass)

    def test_a_key_is_a_function_too(self) -> None:
        @message(key=lambda m: (m.sku, m.qty))
        @dataclass(frozen=True)
        class Keyed(Request[None]):
            sku: str
            qty: int

        assert key_of(Keyed("a", 2)) == ("a", 2)

    def test_a_failing_key_function_is_an_invalid_message(self) -> None:
        @message(key=lambda m: m.nothing)
        @dataclass(frozen=True)
        class Keyed(Request[None]):
            pass

        with pytest.raises(InvalidMessageError, match="key of"):
            key_of(Keyed())

    def test_without_a_key_the_fix_is_told(self) -> None:
        with pytest.raises(InvalidMessageError, match=r"@message\(key="):
            key_of(AsStruct("a"))


class TestNames:
    def test_are_module_and_qualified_name(self) -> None:
        assert wire_name(AsDataclass) == f"{__name__}.AsDataclass"

    SCRIPT = """
from dataclasses import dataclass
from catga import Event
from catga.messages import wire_name
@dataclass
class Made(Event):
    pass
if __name__ == "__main__":
    print(wire_name(Made))
"""

    def test_main_is_the_scripts_module(self, tmp_path: Path) -> None:
        (tmp_path / "orders.py").write_text(self.SCRIPT)
        assert run(tmp_path, "orders.py") == "orders.Made"
        assert run(tmp_path, "-m", "orders") == "orders.Made"

    HANDLER = """
from catga.mediator.annotations import label
def made(event):
    pass
print(label(made))
"""

    def test_a_handler_is_named_by_the_scripts_module_too(self, tmp_path: Path) -> None:
        (tmp_path / "orders.py").write_text(self.HANDLER)
        assert run(tmp_path, "orders.py") == run(tmp_path, "-c", "import orders") == "orders.made"

    def test_main_of_a_package_is_the_package(self, tmp_path: Path) -> None:
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "__init__.py").touch()
        (tmp_path / "shop" / "__main__.py").write_text(self.SCRIPT)
        assert run(tmp_path, "-m", "shop") == "shop.Made"


def run(folder: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


class Named(Request["Answer"]):
    pass


@dataclass(frozen=True)
class Answer:
    value: int


class Page(Request[list[T]], Generic[T]):
    pass


class Swapped(Page[int]):
    pass


class Untold(Request):  # type: ignore[type-arg]
    pass


class Wrong(Request["Nowhere"]):  # type: ignore[name-defined]
    pass


class Sibling(Named):
    pass


class Mixin(Generic[T]):
    pass


class MixedIn(Mixin[int]):
    pass


class Told(Request[str]):
    pass


class Mixed(MixedIn, Told):
    pass


@dataclass(slots=True)
class MixedDataclass(MixedIn, Told):
    pass


class Open(Request[T], Generic[T]):
    pass


class Twice(Open, Told):  # type: ignore[type-arg, misc]
    pass


class Nothing(MixedIn, Request[None]):
    pass


class TestResponseType:
    def test_forward_references_are_resolved(self) -> None:
        assert response_type(Named) is Answer
        assert response_type(Sibling) is Answer

    def test_a_generic_base_is_bound(self) -> None:
        assert response_type(Swapped) == list[int]

    @pytest.mark.parametrize(
        ("cls", "expected"), [(Mixed, str), (MixedDataclass, str), (Twice, str), (Nothing, type(None))]
    )
    def test_any_base_may_tell_it(self, cls: type, expected: object) -> None:
        assert response_type(cls) == expected

    @pytest.mark.parametrize("cls", [Untold, Wrong])
    def test_what_cannot_be_told_is_an_error(self, cls: type) -> None:
        with pytest.raises(InvalidMessageError):
            response_type(cls)

    def test_a_union_is_kept(self) -> None:
        class Maybe(Request[int | None]):
            pass

        assert response_type(Maybe) == int | None


def test_markers_add_nothing_to_instances() -> None:
    assert not hasattr(AsDataclass("a"), "__dict__")
    assert Request.__slots__ == Event.__slots__ == ()


def test_message_needs_no_parentheses() -> None:
    @message
    @dataclass(frozen=True)
    class Plain(Request[int]):
        n: int = 1

    assert Plain(2) == Plain(2)
    assert options_of(Plain) == options_of(message()(Plain))


@pytest.mark.parametrize("wrong", ["shop.Buy", 3.0])
def test_message_takes_options_by_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match="options by name"):
        message(wrong)


@pytest.mark.parametrize("options", [{"timeout": "5"}, {"timeout": True}, {"key": 3}, {"name": 3}])
def test_an_option_of_another_type_is_refused_in_words(options: dict[str, Any]) -> None:
    class Plain(Request[int]):
        pass

    with pytest.raises(InvalidMessageError, match="must be"):
        message(**options)(Plain)
