"""The base of the operators' pages: a list with filters and pages, and actions on the chosen rows.

Every action on every row is logged twice: in the admin's history (`LogEntry`) and as the event `operator_action`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlencode

import structlog
from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.text import capfirst
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from counters.admin.base import ViewsAdmin
from counters.admin.filters import Filter, ReasonForm, encoded
from counters.admin.listing import PAGE, Page

log = structlog.get_logger(__name__)
JOURNAL_AWAY = "The journal's Redis does not answer now"


@dataclass(frozen=True, slots=True)
class Action:
    """`run(id, *OperationsAdmin.more(...))` returns "" if the action was done, or else a sentence on why not. It may
    raise `RedisError` and kombu's `OperationalError`.

    `done` is the text in the history. `asks` is the question of the page that asks for a reason; if empty, no reason is
    asked for.
    """

    label: str
    done: str
    run: Callable[..., str]
    asks: str = ""


class OperationsAdmin(ViewsAdmin):
    """A subclass sets its filters, template (see `operations/list.html`) and actions, and finds the rows."""

    filters: ClassVar[type[Filter]]
    template: ClassVar[str]
    things: ClassVar[dict[str, Action]] = {}  # actions by name; `ModelAdmin.actions` is for querysets

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> models.Model | None:  # noqa: ARG002
        """The object that a log entry names, whether it still exists or not."""
        found: models.Model = self.model(pk=object_id)
        return found

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Any], dict[str, Any]]:
        """The rows that match a valid filter, and the template's other context. Raises `RedisError`."""
        raise NotImplementedError

    def more(self, request: HttpRequest, reason: str) -> tuple[Any, ...]:  # noqa: ARG002
        """Arguments of an action after the id."""
        return ()

    def can_act(self, request: HttpRequest) -> bool:
        """Whether the rows are shown with actions."""
        return bool(self.things) and self.has_change_permission(request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, or an action on some of its rows."""
        self.check_view(request)
        if request.method == "POST":
            return self._act(request)
        form = self.filters(request.GET)
        context = {"form": form, "actions": self.things if self.can_act(request) else {}, **(extra_context or {})}
        if form.is_valid():
            context |= self._page(request, form)
        title = capfirst(str(self.opts.verbose_name_plural))
        return TemplateResponse(request, self.template, self.context(request, title, context))

    def _page(self, request: HttpRequest, form: Filter) -> dict[str, Any]:
        try:
            page, more = self.found(request, form)
        except RedisError as error:
            self.message_user(request, f"{JOURNAL_AWAY} ({error}): what it holds is missing here.", messages.ERROR)
            return {}
        if page.trouble:
            self.message_user(request, page.trouble, messages.WARNING)
        asked = {
            name: value for name, value in request.GET.items() if name in form.fields and name != "after" and value
        }
        following = urlencode({**asked, "after": encoded(page.following)}) if page.following is not None else ""
        first = "?" + urlencode(asked) if form.cleaned_data["after"] else ""
        partial = bool(following) and len(page.rows) < PAGE
        return {"rows": page.rows, "following": following, "first": first, "partial": partial, "asked": asked, **more}

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        """Redirect a log entry's link to the list, filtered for its object."""
        self.check_view(request)
        address = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")
        return HttpResponseRedirect(f"{address}?{urlencode(self.asking_for(unquote(object_id)))}")

    def asking_for(self, id: str) -> dict[str, str]:
        """The filter that finds one row."""
        return {"id": id}

    def _act(self, request: HttpRequest) -> HttpResponse:
        if not self.can_act(request):
            raise PermissionDenied
        action, chosen = (
            self.things.get(request.POST.get("action", "")),
            request.POST.getlist("_selected_action")[:PAGE],
        )
        if action is None or not chosen:
            self.message_user(request, "Choose an action and at least one row.", messages.WARNING)
            return HttpResponseRedirect(request.get_full_path())
        if not action.asks:
            return self._run(request, action, chosen, "")
        form = ReasonForm(request.POST if "reason" in request.POST else None)
        if form.is_valid():
            return self._run(request, action, chosen, form.cleaned_data["reason"])
        context = {
            "action": request.POST["action"],
            "asks": action.asks,
            "label": action.label,
            "chosen": [self.model(pk=id) for id in chosen],
            "adminform": AdminForm(form, [(None, {"fields": ["reason"]})], {}, model_admin=self),  # type: ignore[arg-type]
            "errors": form.errors,
        }
        return TemplateResponse(
            request, "admin/counters/operations/reason.html", self.context(request, action.asks, context)
        )

    def _run(self, request: HttpRequest, action: Action, chosen: list[str], reason: str) -> HttpResponse:
        done, troubles = 0, []
        for id in chosen:
            try:
                trouble = action.run(id, *self.more(request, reason))
            except (RedisError, OperationalError) as error:
                troubles.append(f"{JOURNAL_AWAY}, or the broker does not: {error}.")
                break
            if trouble:
                troubles.append(trouble)
                continue
            done += 1
            said = f"{action.done}: {reason}" if reason else f"{action.done}."
            log.info(
                "operator_action",
                action=action.done,
                object=id,
                of=self.opts.model_name,
                user=request.user.pk,
                reason=reason,
            )
            self.log_change(request, self.model(pk=id), said)
        for trouble in dict.fromkeys(troubles):
            self.message_user(request, trouble, messages.ERROR)
        if done:
            self.message_user(request, f"{action.done}: {done}.", messages.SUCCESS)
        return HttpResponseRedirect(request.get_full_path())
