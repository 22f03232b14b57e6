"""Messages and values to bytes and back, and what would be lost on the way."""

from catga.codec.canonical import digest
from catga.codec.codec import Codec, encode

__all__ = ["Codec", "digest", "encode"]
