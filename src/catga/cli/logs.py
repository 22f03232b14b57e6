"""Log lines of ``catga run``: time, level, text, and the fields that catga adds."""

import logging

from catga.cli.text import one_line


class Lines(logging.Formatter):
    """Appends ``extra={"catga_…": …}`` fields as ``name=value``."""

    def __init__(self, name: str = "") -> None:
        super().__init__(f"%(asctime)s %(levelname)-8s {name and name + ' '}%(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        fields = {k.removeprefix("catga_"): v for k, v in vars(record).items() if k.startswith("catga_")}
        return f"{line} {' '.join(f'{k}={v}' for k, v in fields.items())}" if fields else line


class LastWarning(logging.Handler):
    """Keeps the latest warning, for a screen that has no room for a log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        self.setFormatter(Lines())

    def emit(self, record: logging.LogRecord) -> None:
        record = logging.makeLogRecord({**vars(record), "exc_info": None})
        self.text = one_line(self.format(record))


def log_to_stderr(level: str, name: str = "") -> None:
    """Let everything of `level` and above be written."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(name))
    handler.setLevel(level.upper())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def keep_last_warning() -> LastWarning:
    """Write nothing; keep the latest warning."""
    handler = LastWarning()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    return handler
