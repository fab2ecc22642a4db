"""Structured logs (structlog): an event name and fields, on standard error, as JSON or human-readable text."""

from __future__ import annotations

import logging.config
from typing import TYPE_CHECKING, Any

import structlog

from runtime import request_id

if TYPE_CHECKING:
    from counter_project.config import Config


class _Bugs(logging.Filter):
    """Lets exceptions through. Django would also log each answer with a 5xx, which `problems` counts and logs seldom."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


def logging_config(config: Config) -> None:
    """Format events of structlog and of the standard library's loggers in the same way."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        request_id.to_log,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer = structlog.processors.JSONRenderer() if config.log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[config.log_level]),
        cache_logger_on_first_use=True,
    )

    def node(_logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
        return {"node": config.node_id, **{name: value for name, value in event.items() if name != "node"}}

    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "structured": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "processors": [node, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
                    "foreign_pre_chain": shared,
                }
            },
            "filters": {"bugs": {"()": _Bugs}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
            "root": {"handlers": ["stderr"], "level": config.log_level},
            "loggers": {
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "celery.beat": {"level": "WARNING"},
                "django.request": {"level": "ERROR", "filters": ["bugs"]},
                # Clients' mistakes (a wrong Host, no CSRF token): answered, and counted.
                "django.security": {"level": "CRITICAL"},
                "psycopg.pool": {"level": "ERROR"},
            },
        }
    )
