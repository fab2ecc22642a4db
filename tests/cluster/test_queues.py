"""The wiring of Celery: a message reaches its own queue only; a broker that answers with errors counts as down."""

from __future__ import annotations

import time
from uuid import uuid4

import httpx
from celery import current_app
from django.conf import settings
from redis import Redis

from counters.apply import dead_letters
from counters.intake import dispatch
from counters.operators import broker
from runtime import redis
from tests.support.cluster import Cluster, eventually
from tests.support.load import assert_exact, load


def test_a_message_reaches_the_workers_of_its_queue_alone(cluster: Cluster) -> None:
    """Each message is of an unknown task, so whoever gets it keeps a dead letter that names the queue it came
    through."""
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


def test_the_broker_is_asked_on_a_connection_that_is_kept(cluster: Cluster) -> None:
    """To count the messages again and again connects but once, and again where the connection was cut off."""
    with Redis.from_url(cluster.env["TALLY_BROKER_URL"]) as server:
        broker.depths()
        before = server.info("stats")["total_connections_received"]
        for _ in range(50):
            broker.depths()
        assert server.info("stats")["total_connections_received"] - before < 25  # those of others
        for one in server.client_list():
            if one["cmd"] == "llen":
                server.client_kill_filter(_id=one["id"])
        assert set(broker.depths()) == {queue.name for queue in settings.CELERY_TASK_QUEUES}


def test_a_full_redis_does_not_end_the_workers(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Writes get 503; Celery's own commands are refused, too, and its workers try again until there is room."""

    def running() -> list[tuple[int, int]]:
        return [(one["pid"], one["restarts"]) for role in ("worker", "spill-worker") for one in cluster.processes(role)]

    journal, before = redis.journal(), running()
    room = journal.config_get("maxmemory")["maxmemory"]
    with load(cluster, key) as writes:
        time.sleep(0.5)
        journal.config_set("maxmemory", journal.info("memory")["used_memory"])
        try:
            time.sleep(4)
        finally:
            journal.config_set("maxmemory", room)
        time.sleep(1)
    assert_exact(client, writes)
    assert running() == before
