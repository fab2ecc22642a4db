"""Brokers of a test's own, as processes on 127.0.0.1 that can be killed and started again: a Redis, and a RabbitMQ
where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from amqp.exceptions import AMQPError
from kombu import Connection
from redis.exceptions import RedisError

from cluster import layout, programs
from tests.support.cluster import eventually


class Broker(ABC):
    """One broker; its data are in a directory of its own and outlive its process, as far as the broker keeps any."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    @abstractmethod
    def url(self) -> str:
        """Where Celery finds it."""

    @abstractmethod
    def launch(self) -> None:
        """Start it, and do not wait for it."""

    def start(self) -> None:
        """Return when it takes connections."""
        self.launch()
        self.wait()

    def kill(self) -> None:
        """SIGKILL to all that it has started."""
        while self._running:
            process = self._running.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def send(self, number: signal.Signals) -> None:
        """Another signal to all of it."""
        for process in self._running:
            os.killpg(process.pid, number)

    def _spawn(self, *command: str, env: dict[str, str] | None = None) -> None:
        with (self.home / "log").open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    command,
                    cwd=self.home,
                    env=env,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )

    def wait(self) -> None:
        """Return when it takes connections."""

        def connects() -> bool:
            with Connection(self.url, connect_timeout=2) as connection:
                try:
                    connection.connect()
                except (OSError, AMQPError, RedisError):
                    return False
                return True

        eventually(connects, 60)


class Redis(Broker):
    """A third Redis, without persistence."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.port = free_ports(1)[0]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def launch(self) -> None:
        self._spawn(
            str(programs.find().redis),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        )


class RabbitMQ(Broker):
    """RabbitMQ with its own port mapper (epmd), cookie, data and log."""

    # Debian's wrapper on PATH changes the user; the script behind it does not.
    PROGRAM = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin{os.pathsep}{os.environ.get('PATH', '')}")

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.port, distribution, mapper = free_ports(3)
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),  # for the cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": f"tally-{uuid4().hex[:8]}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        }
        (home / "enabled_plugins").write_text("[].\n")
        (home / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\n")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def launch(self) -> None:
        assert self.PROGRAM
        self._spawn("epmd", env=self._env)
        self._spawn(self.PROGRAM, env=self._env)


BROKERS: dict[str, Callable[[Path], Broker]] = {"redis": Redis, "rabbitmq": RabbitMQ}


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    ports = layout.choose_ports(map(str, range(count)), {}, layout.port_is_free, layout.random_start())
    return list(ports.values())
