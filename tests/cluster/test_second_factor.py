"""The second factor of staff: codes of an authenticator and backup codes, in the admin, on /status and by command."""

from __future__ import annotations

import re
from base64 import b32decode
from collections.abc import Callable, Iterator
from io import StringIO
from uuid import uuid4

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client, override_settings
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from counters.admin.login import DEVICE_COOKIE
from counters.models import AuditEntry
from counters.second_factor import devices
from tests.conftest import fresh_address
from tests.support.browser import LOGIN, Browser
from tests.support.cluster import Cluster

PAGE = "/admin/second-factor/"
PASSWORD = "a-long-Password-7"
FOR_STAFF = "All orders"  # a link of /status that nobody else sees


@pytest.fixture
def user(cluster: Cluster) -> Iterator[User]:
    user = User.objects.create_user(f"u{uuid4().hex}", is_staff=True, is_superuser=True)
    yield user
    user.delete()


@pytest.fixture
def key() -> str:
    return devices.new_key()


@pytest.fixture
def codes(user: User, key: str) -> list[str]:
    """The backup codes of the user, who has an authenticator with the key."""
    made = devices.enrol(user, key)
    assert made is not None
    return made[1]


def code(key: str, steps: int = 0) -> str:
    """What an authenticator shows, so many times 30 s from now."""
    totp = TOTP(bytes.fromhex(key), drift=steps)
    return f"{totp.token():06}"


def half_way(browse: Callable[..., Browser], user: User) -> Browser:
    """A browser that has shown the password."""
    browser = browse(log_in=False)
    browser.resume(user)
    return browser


def enter(browser: Browser, text: str) -> tuple[int, str]:
    """Enter a code. Returns the status of the answer, and where it leads to."""
    answer = browser.submit(PAGE, otp_token=text)
    return answer.status_code, answer.url.path


def forgive(user: User) -> None:
    """Wait as long as wrong codes ask for."""
    for kind in (TOTPDevice, StaticDevice):
        kind.objects.filter(user=user).update(throttling_failure_count=0)


def in_process(cluster: Cluster, user: User) -> Client:
    """A browser of this process, under its settings, that has shown the password."""
    client = Client(headers={"Host": "127.0.0.1", **cluster.from_address(fresh_address())})
    client.force_login(user)
    return client


@pytest.mark.smoke
def test_a_password_alone_opens_nothing_to_those_who_have_a_second_factor(
    cluster: Cluster, browse: Callable[..., Browser], user: User, key: str, codes: list[str]
) -> None:
    user.set_password(PASSWORD)
    user.save()
    browser = browse(log_in=False)
    assert browser.log_in(user.username, PASSWORD).url.path == PAGE
    assert DEVICE_COOKIE not in browser.cookies
    for path in ("/admin/", "/admin/auth/user/", "/admin/password_change/", "/admin/nowhere/", LOGIN):
        asked = browser.get(path)
        assert (asked.url.path, "one-time-code" in asked.text, "data:image" in asked.text) == (PAGE, True, False), path
    token = {"X-CSRFToken": browser.cookies["csrftoken"]}
    refused = browser.post(f"/admin/auth/user/{user.pk}/delete/", data={"post": "yes"}, headers=token)
    assert (refused.url.path, User.objects.filter(pk=user.pk).exists()) == (PAGE, True)
    assert AuditEntry.objects.filter(by=f"user {user.username}, password only", action__contains="delete").exists()
    assert FOR_STAFF not in browser.get("/status").text
    key_of_staff = {"Authorization": f"Api-Key {cluster.key}"}
    assert browser.get("/v1/removals/nothing", headers=key_of_staff).status_code == 404, "a key is no session"
    session = browser.cookies[settings.SESSION_COOKIE_NAME]
    answer = browser.submit(PAGE, browser.get("/admin/auth/user/"), otp_token=f"{code(key)[:3]} {code(key)[3:]}")
    assert (answer.status_code, answer.url.path) == (200, "/admin/auth/user/"), "what was asked for at first"
    assert browser.cookies[settings.SESSION_COOKIE_NAME] != session
    assert browser.cookies[DEVICE_COOKIE]
    assert FOR_STAFF in browser.get("/status").text
    assert "10 of your backup codes are left" in browser.get(PAGE).text


def test_a_code_is_good_once(browse: Callable[..., Browser], user: User, key: str, codes: list[str]) -> None:
    used = code(key)
    assert enter(half_way(browse, user), used) == (200, "/admin/")
    other = half_way(browse, user)
    assert enter(other, used) == (200, PAGE)
    assert enter(other, codes[3].upper()) == (200, "/admin/")
    assert devices.backup_codes_left(user) == 9
    another = half_way(browse, user)
    assert enter(another, codes[3]) == (200, PAGE)
    forgive(user)
    made = another.submit(PAGE, otp_token=codes[4])
    new = re.findall(r"<li><code>(\w+)</code>", other.submit(PAGE).text)
    assert (made.url.path, len(set(new))) == ("/admin/", 10)
    assert not set(new) & set(codes)
    forgive(user)
    assert devices.verify(user, codes[5]) is None, "new ones take the place of the old ones"


def test_after_a_wrong_code_none_is_looked_at_for_a_while(
    browse: Callable[..., Browser], user: User, key: str, codes: list[str]
) -> None:
    browser = half_way(browse, user)
    assert enter(browser, code(key, 40)) == (200, PAGE)
    TOTPDevice.objects.filter(user=user).update(throttling_failure_count=6)
    refused = browser.submit(PAGE, otp_token=code(key))
    assert refused.status_code == 429
    assert 25 <= int(refused.headers["Retry-After"]) <= 32
    assert "Please wait" in refused.text
    assert enter(browser, codes[0]) == (200, "/admin/"), "another kind of code"


@pytest.mark.limit("TALLY_LOGIN_CODE_RATE")
def test_codes_are_limited_by_user(cluster: Cluster, user: User, key: str, codes: list[str]) -> None:
    with override_settings(TALLY=settings.TALLY.model_copy(update={"login_code_rate": "2/d"})):
        statuses = []
        for text in (code(key, 40), "x\0" * 30, code(key)):
            forgive(user)
            answer = in_process(cluster, user).post(PAGE, {"otp_token": text})
            statuses.append(answer.status_code)
    assert statuses == [200, 400, 429]
    assert 100 < int(answer.headers["Retry-After"]) <= 24 * 3600


def test_where_it_is_required_staff_set_one_up_before_anything_else(cluster: Cluster, user: User) -> None:
    with override_settings(TALLY=settings.TALLY.model_copy(update={"second_factor": "required"})):
        browser, other = in_process(cluster, user), in_process(cluster, user)
        shown = browser.get("/admin/auth/group/", follow=True)
        assert shown.redirect_chain[-1][0].startswith(PAGE)
        seen, elsewhere = (
            re.search(r"to type: <code>(\w+)</code>", one.get(PAGE).content.decode()) for one in (browser, other)
        )
        assert seen
        assert elsewhere
        assert seen[1] != elsewhere[1], "another session does not know the key"
        key = b32decode(seen[1]).hex()
        assert "errornote" in browser.post(PAGE, {"otp_token": code(key, 40)}).content.decode()
        assert not devices.has(user)
        used = code(key)
        made = browser.post(PAGE, {"otp_token": used, "next": "//elsewhere.example/"})
        assert len(re.findall(r"<li><code>\w+</code>", made.content.decode())) == 10
        assert b"elsewhere" not in made.content
        assert made.headers["Cache-Control"].count("no-store") == 1
        assert browser.get("/admin/auth/group/").status_code == 200
        assert "data:image" not in other.get(PAGE).content.decode(), "there is one, and only its codes count"
        assert "errornote" in other.post(PAGE, {"otp_token": used}).content.decode()
        assert other.get("/admin/auth/group/").status_code == 302
    with override_settings(TALLY=settings.TALLY.model_copy(update={"second_factor": "off"})):
        assert other.get("/admin/auth/group/").status_code == 200


def test_by_command(cluster: Cluster, browse: Callable[..., Browser], user: User) -> None:
    def said(*arguments: str) -> str:
        out = StringIO()
        call_command("second_factor", *arguments, stdout=out)
        return out.getvalue()

    told = said("enroll", user.username)
    uri = re.search(r"otpauth://totp/Tally%3A\w+\?secret=(\w+)&\S+", told)
    assert uri
    assert "█" in told, "the QR code"
    assert f"{user.username}: 10 backup codes left" in said("list")
    browser = half_way(browse, user)
    assert enter(browser, code(b32decode(uri[1]).hex())) == (200, "/admin/")
    with pytest.raises(CommandError, match="has a second factor"):
        said("enroll", user.username)
    assert "no second factor" in said("reset", user.username)
    assert browser.get("/admin/").url.path == LOGIN, "its sessions are ended, too"
    assert f"{user.username}: no second factor" in said("list")
    recorded = AuditEntry.objects.filter(target=f"user {user.username}").order_by("id")
    assert [one.action.split()[-1] for one in recorded] == ["enroll", "reset"]
    with pytest.raises(CommandError, match="had no second factor"):
        said("reset", user.username)
    with pytest.raises(CommandError, match="nobody is called"):
        said("reset", uuid4().hex)
