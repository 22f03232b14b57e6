"""What ``catga doctor`` looks at."""

from enum import Enum

import msgspec


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """What one check found, and how to mend it."""

    check: str
    level: Level
    text: str
    fix: str = ""
