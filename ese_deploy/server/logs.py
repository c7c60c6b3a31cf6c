"""Logs on standard error: one JSON object a line, or text."""

import json
import logging
import sys
import time
from typing import Any

from ese_deploy.server.settings import LogFormat

__all__ = ["configure_logs", "log_event"]

_LOGGER = logging.getLogger("ese_deploy")
_UVICORN = logging.getLogger("uvicorn")
_EVENTS = logging.getLogger("ese_deploy.server.events")


class _Formatter(logging.Formatter):
    def __init__(self, kind: LogFormat) -> None:
        super().__init__()
        self._kind = kind

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "values", {}),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        if self._kind is LogFormat.JSON:
            return json.dumps(values)
        rest = " ".join(f"{key}={value}" for key, value in values.items() if key not in ("time", "level", "message"))
        return f"{values['time']} {values['level']}: {values['message']} {rest}".rstrip()


def configure_logs(kind: LogFormat) -> None:
    """Send what this package and uvicorn log to standard error, instead of other handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(kind))
    for logger, level in ((_LOGGER, logging.INFO), (_UVICORN, logging.ERROR)):
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def log_event(message: str, level: int = logging.INFO, **values: Any) -> None:
    """Log an event with named values."""
    _EVENTS.log(level, message, extra={"values": values})
