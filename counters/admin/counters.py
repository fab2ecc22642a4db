"""Counters in the admin: a list by key or prefix, a page for each, and the state of a write."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from counters.admin import changes, listing
from counters.admin.base import ViewsAdmin
from counters.admin.forms import ChangeForm, SearchForm, WriteForm
from counters.intake.journal import JournalUnavailable
from counters.keys import KEY_RULE, is_key
from counters.models import Counter
from counters.outcome import REASONS
from counters.reading import reads, write_status
from counters.write_id import WriteId
from sharding import topology
from sharding.databases import ShardUnavailable
from sharding.topology import NoTopology


class CounterAdmin(ViewsAdmin):
    """Every key can be opened and changed, so none can be added. A reset takes the place of deletion."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Counter | None:  # noqa: ARG002
        """The counter that a log entry names; None if the id is not a key."""
        return Counter(key=object_id) if is_key(object_id) else None

    def get_urls(self) -> list[URLPattern]:
        """The model's URLs and the look-up of writes."""
        view = self.admin_site.admin_view(self.write_view)
        return [path("writes/", view, name="counters_write"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Counters by prefix, page by page, or one by its key."""
        self.check_view(request)
        form = SearchForm({"match": "prefix", **request.GET.dict()})
        context = self.context(request, "Select counter to view or change", {"form": form, **(extra_context or {})})
        if form.is_valid():
            context |= self._found(request, form.cleaned_data)
        return TemplateResponse(request, "admin/counters/counter/list.html", context)

    def _found(self, request: HttpRequest, asked: dict[str, str]) -> dict[str, Any]:
        text = asked["q"]
        try:
            exact = text and asked["match"] == "key"
            page = _by_key(text) if exact else _by_prefix(text, asked["after"])
        except NoTopology as error:
            self.message_user(request, f"Nothing can be read now: {error}.", messages.ERROR)
            return {}
        if page.trouble:
            self.message_user(request, page.trouble, messages.WARNING)
        rows = [(counter, _address(counter.key)) for counter in page.rows]
        following = urlencode({**asked, "after": page.following}) if page.following else ""
        open_at = _address(text) if text and not page.away else ""
        return {"rows": rows, "following": following, "first": not asked["after"], "text": text, "open_at": open_at}

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        """One counter, written or not, and the form that changes it."""
        self.check_view(request)
        key = unquote(object_id)
        if not is_key(key):
            self.message_user(request, f"This is not a key: a key has {KEY_RULE}.", messages.ERROR)
            return HttpResponseRedirect(reverse("admin:counters_counter_changelist"))
        if request.method == "POST":
            return self._change(request, key)
        counter = self._read(request, key)
        form = ChangeForm(version=counter.version) if counter and self.has_change_permission(request) else None
        return self._page(request, key, counter, form)

    def _change(self, request: HttpRequest, key: str) -> HttpResponse:
        if not self.has_change_permission(request):
            raise PermissionDenied
        form = ChangeForm(request.POST, version=0)
        if form.is_valid():
            result = changes.make(form.step(key), form.cleaned_data["token"], request.user.pk)
            if result.accepted:
                self.log_change(request, Counter(key=key), f"{result.what} {result.sentence}")
            self.message_user(request, f"{result.what} {result.sentence}", result.level)
            if result.final:
                return HttpResponseRedirect(request.path)
        return self._page(request, key, self._read(request, key), form)

    def _read(self, request: HttpRequest, key: str) -> reads.Counter | None:
        try:
            return reads.get(key, "primary")
        except (ShardUnavailable, NoTopology) as error:
            reason = str(error)
        try:
            counter = reads.get(key)
        except (ShardUnavailable, NoTopology):
            self.message_user(request, f"This counter cannot be read now: {reason}.", messages.ERROR)
            return None
        text = f"The primary of shard {counter.shard} does not answer; this is what a {counter.source} has, and it may be old."
        self.message_user(request, text, messages.WARNING)
        return counter

    def _page(
        self, request: HttpRequest, key: str, counter: reads.Counter | None, form: ChangeForm | None
    ) -> HttpResponse:
        fields = [(None, {"fields": ["operation", "number", "unchanged", "version", "token"]})]
        context = {
            "counter": counter,
            "original": Counter(key=key),
            "subtitle": key,
            "history": reverse("admin:counters_counter_history", args=[quote(key)]),
            "adminform": AdminForm(form, fields, {}, model_admin=self) if form else None,  # type: ignore[arg-type]
            "errors": form.errors if form else None,
        }
        title = "Change counter" if form else "View counter"
        return TemplateResponse(request, "admin/counters/counter/change.html", self.context(request, title, context))

    def write_view(self, request: HttpRequest) -> HttpResponse:
        """The state of a write, by its id."""
        self.check_view(request)
        form = WriteForm(request.GET or None)
        context: dict[str, Any] = {"form": form}
        if form.is_valid():
            context |= _became(form.cleaned_data["id"])
        return TemplateResponse(
            request, "admin/counters/counter/write.html", self.context(request, "Look up a write", context)
        )


def _by_prefix(prefix: str, after: str) -> listing.Page[reads.Counter]:
    """Written counters whose key starts with a prefix, starting after the key `after`. Raises `NoTopology`."""

    def look(shard: int, limit: int) -> list[reads.Counter]:
        return reads.listing_of(shard, prefix, after=after, limit=limit)

    return listing.page(sorted(set(topology.current().owners)), look, place=lambda counter: counter.key)


def _by_key(key: str) -> listing.Page[reads.Counter]:
    """One counter, written or not. Raises `NoTopology`."""
    return listing.page(
        [topology.current().shard_of(key)], lambda *_: [reads.get(key)], place=lambda counter: counter.key
    )


def _address(key: str) -> str:
    return reverse("admin:counters_counter_change", args=[quote(key)])


def _became(write: WriteId) -> dict[str, Any]:
    try:
        known = max(write.shards) < settings.TALLY.shard_count
        found = write_status.find(write) if known else None
    except (ShardUnavailable, JournalUnavailable) as error:
        return {"trouble": f"This cannot be told now: {error}."}
    rows = [(one, _address(one.key), REASONS.get(one.reason or "", "")) for one in found.outcomes] if found else []
    return {"asked": write, "found": found, "rows": rows}
