"""The settings that have no default."""

from __future__ import annotations

import json

SECRET = "correct-horse-battery-staple-0123456789"  # not-a-secret: no process runs with it
LEAST = {
    "TALLY_SECRET_KEY": SECRET,
    "TALLY_SHARDS": json.dumps(
        [
            {"nodes": [{"host": "db0", "port": 5432}, {"host": "db0b", "port": 5432}]},
            {"nodes": [{"host": "db1", "port": 5432}]},
        ]
    ),
    "TALLY_DATABASE_PASSWORD": "swordfish",
    "TALLY_JOURNAL_URL": "redis://journal/0",
    "TALLY_BROKER_URL": "redis://broker/0",
    "TALLY_CACHE_URL": "redis://cache/0",
}
