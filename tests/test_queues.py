"""The wiring of Celery: a message goes to its queue, and to no other."""

from __future__ import annotations

from uuid import uuid4

from celery import current_app

from counters.apply import dead_letters
from counters.intake import dispatch
from tests.conftest import Cluster, eventually


def test_a_message_reaches_the_workers_of_its_queue_alone(cluster: Cluster) -> None:
    """Each message is of an unknown task, so whoever gets it keeps a dead letter that names the queue it came through."""
    queues = [dispatch.queue_of(0), dispatch.queue_of(1), "maintenance"]
    task = f"counters.no_such_task_{uuid4().hex}"
    for queue in queues:
        current_app.send_task(task, (), queue=queue)

    def kept() -> list[tuple[str, str]]:
        return [(id, letter.queue) for id, letter in dead_letters.letters().items() if letter.task == task]

    eventually(lambda: len(kept()) >= len(queues))
    for _ in range(20):
        assert sorted(queue for _, queue in kept()) == sorted(queues)
    for id, _ in kept():
        dead_letters.discard(id)
