"""The keys of a signed cluster. They come from the environment alone: every user of a machine can read arguments."""

import os

from catga.cli.failures import USAGE, CommandError
from catga.rpc.signing import Signer

VARIABLE = "CATGA_SIGNING_KEYS"
HEX = "hex:"


def signing_keys() -> tuple[bytes, ...]:
    """The keys in the environment; the first signs, all verify. Raises `CommandError`, which quotes none of them."""
    text = os.environ.get(VARIABLE, "")
    if not text.strip():
        return ()
    try:
        keys = tuple(map(_key, text.split(",")))
        Signer(keys)
    except ValueError as error:
        raise CommandError(f"{VARIABLE}: {error}", USAGE) from None
    return keys


def _key(text: str) -> bytes:
    text = text.strip()
    if not text.startswith(HEX):
        return text.encode()
    try:
        return bytes.fromhex(text.removeprefix(HEX))
    except ValueError:
        raise ValueError(f"what follows {HEX} must be hexadecimal digits, two a byte") from None
