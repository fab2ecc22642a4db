"""This process's connections to Celery's broker, for those who send tasks."""

from __future__ import annotations

from typing import Any

from celery import current_app
from kombu.pools import ProducerPool

from runtime.resources import owned


class Broker:
    """Sends tasks over pooled connections. Celery's own pool cannot be closed and used again."""

    def __init__(self) -> None:
        limit = current_app.conf.broker_pool_limit
        self._connections = current_app.connection_for_write().Pool(limit)
        self._producers: Any = ProducerPool(self._connections, limit=limit)

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> None:
        """As Celery's `send_task`. Raises kombu's `OperationalError`."""
        with self._producers.acquire(block=True) as producer:
            current_app.send_task(name, args, kwargs, producer=producer, **options)

    def close(self) -> None:
        """Close the connections."""
        self._producers.force_close_all()
        self._connections.force_close_all()


@owned(close=Broker.close)
def broker() -> Broker:
    """The way to the broker."""
    return Broker()
