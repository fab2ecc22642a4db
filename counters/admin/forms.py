"""Forms of the admin: to search for counters, to change them, and to choose an API key's scopes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import uuid4

from django import forms
from django.utils import timezone

from counters.batch import Step
from counters.keys import CHARACTERS_RULE, is_prefix
from counters.models import ApiKey, Scope, check_name
from counters.operations import MAX_VALUE, MIN_VALUE
from counters.write_id import WriteId


class SearchForm(forms.Form):
    """`q` is a prefix of keys or one whole key. The page begins after the key `after`."""

    q = forms.CharField(required=False, strip=True, max_length=200)
    match = forms.ChoiceField(
        required=False, choices=[("prefix", "starts with"), ("key", "is exactly")], initial="prefix"
    )
    after = forms.CharField(required=False, max_length=200)

    def clean_q(self) -> str:
        text: str = self.cleaned_data["q"]
        if text and not is_prefix(text):
            raise forms.ValidationError(f"A key has {CHARACTERS_RULE}.")
        return text

    def clean_after(self) -> str:
        after: str = self.cleaned_data["after"]
        return after if is_prefix(after) else ""


class ChangeForm(forms.Form):
    """One operation on one counter. Because of `token`, a form sent twice counts once."""

    operation = forms.ChoiceField(
        choices=[("set", "Set to the number below"), ("add", "Add the number below"), ("reset", "Reset to 0")],
        widget=forms.RadioSelect,
        initial="set",
    )
    number = forms.IntegerField(
        required=False,
        min_value=MIN_VALUE,
        max_value=MAX_VALUE,
        widget=forms.NumberInput(attrs={"class": "vBigIntegerField"}),
        help_text="A whole number of 64 bits; to subtract, add a negative one.",
    )
    unchanged = forms.BooleanField(required=False, initial=True)
    version = forms.IntegerField(min_value=0, widget=forms.HiddenInput)
    token = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, version: int, **options: Any) -> None:
        super().__init__(*args, **{**options, "initial": {"version": version, "token": uuid4()}})
        shown = self.data.get("version", version) if self.is_bound else version
        self.fields["unchanged"].label = f"Set or reset only if the version is still {shown}"
        self.fields[
            "unchanged"
        ].help_text = "If it was written since this page was loaded, nothing is changed. Not for adding."

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("operation") != "reset" and cleaned.get("number") is None and "number" not in self.errors:
            self.add_error("number", "Give the number to set or to add.")
        return cleaned

    def step(self, key: str) -> Step:
        """The chosen operation, on a key."""
        asked = self.cleaned_data
        condition = asked["version"] if asked["unchanged"] else None
        match asked["operation"]:
            case "add":
                return Step(key, "increment", asked["number"])
            case "reset":
                return Step(key, "reset", 0, condition)
        return Step(key, "set", asked["number"], condition)


class WriteForm(forms.Form):
    """The id of a write; its cleaned value is a `WriteId`."""

    id = forms.CharField(strip=True, max_length=600, label="Write id", widget=forms.TextInput(attrs={"size": 60}))

    def clean_id(self) -> WriteId:
        try:
            return WriteId.parse(self.cleaned_data["id"])
        except ValueError as error:
            raise forms.ValidationError("This is not an id that a write was answered with.") from error


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """An API key, its scopes as checkboxes."""

    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        widget=forms.CheckboxSelectMultiple,
        help_text="What the key allows. Reading counters is open to everyone, so a key that writes needs no other scope.",
    )

    def clean_expiry_date(self) -> datetime | None:
        at: datetime | None = self.cleaned_data["expiry_date"]
        if at is not None and "expiry_date" in self.changed_data and at <= timezone.now():
            raise forms.ValidationError("This is not in the future. To end a key now, revoke it.")
        return at

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        check_name(name)
        return name

    class Meta:
        model = ApiKey
        fields: ClassVar = ["name", "scopes", "requests_rate", "increments_rate", "expiry_date"]
