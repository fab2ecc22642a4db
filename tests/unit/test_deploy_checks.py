"""Django under the settings of production: its deployment checks are clean, and an answer over HTTPS says what it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from counter_project.config import PREFIX
from tests.support.commands import ROOT
from tests.support.settings import LEAST

CHECK = ("manage.py", "check", "--deploy", "--fail-level", "WARNING")
ASK = """
import json, os
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "counter_project.settings"
django.setup()
from django.test import Client
from django.conf import settings
client, found = Client(headers={"Host": "localhost"}), {}
for secure in (True, False):
    proto = {"X-Forwarded-Proto": "https"} if secure else {}
    answer = client.get("/admin/login/", headers=proto)
    found["https" if secure else "http"] = answer.status_code, dict(answer.headers), str(answer.cookies["csrftoken"])
found["session"] = settings.SESSION_COOKIE_SECURE, settings.SESSION_COOKIE_HTTPONLY, settings.SESSION_COOKIE_SAMESITE
print(json.dumps(found))
"""


def _run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # Nothing listens at port 1: a page must not need the cache.
    environ = inherited | LEAST | {"TALLY_CACHE_URL": "redis://127.0.0.1:1/0"} | settings
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_deployment_checks_are_clean() -> None:
    done = _run(*CHECK, TALLY_SECRET_KEY="aB3$" * 10 + "correct-horse-battery-staple")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "value", "check"), [("HTTPS", "false", "W012"), ("DEBUG", "true", "W018")])
def test_the_deployment_checks_find_what_is_wrong(name: str, value: str, check: str) -> None:
    done = _run(*CHECK, **{PREFIX + name: value})
    assert done.returncode == 1
    assert f"security.{check}" in done.stderr


def test_https_only_and_secure_cookies() -> None:
    done = _run("-c", ASK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    status, headers, cookie = found["https"]
    assert status == 200
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "Secure" in cookie
    assert "SameSite=Lax" in cookie
    _, headers, cookie = found["http"]
    assert "Strict-Transport-Security" not in headers, "a browser ignores it there"
    assert "Secure" in cookie
    assert found["session"] == [True, True, "Lax"]
