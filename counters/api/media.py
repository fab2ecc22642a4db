"""Bodies: decoding with msgspec into the types of `requests`, and the JSON renderer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from django.http import HttpRequest

from counters.api.problems import Problem, invalid, shortened
from runtime.hidden import hidden

# Django REST framework imports both, if it can, for pages and clients that nothing here uses: a twentieth of the time that
# an API process takes to start.
with hidden("requests"), hidden("pygments"):
    from rest_framework import renderers

T = TypeVar("T")

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"
ARROW = "application/vnd.apache.arrow.stream"
_ALIASES = {
    "": JSON,
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/ndjson": NDJSON,
}
_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<field>[^`]*)`\Z")  # the place in an error message of msgspec


class JSONRenderer(renderers.BaseRenderer):
    """JSON by msgspec."""

    media_type = JSON
    format = "json"
    charset = None

    def render(
        self, data: Any, _accepted_media_type: str | None = None, _context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(data)


def media_type(request: HttpRequest) -> str:
    """The media type of the body, without parameters."""
    name = (request.content_type or "").strip().lower()
    return _ALIASES.get(name, name)


def body(request: HttpRequest) -> bytes:
    """The whole body. Raises `Problem` 413 if it is too large, 415 if it is compressed."""
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.TALLY.max_body_bytes:
        raise too_large_body()
    coding = request.META.get("HTTP_CONTENT_ENCODING", "identity").lower()
    if coding not in ("", "identity"):
        detail = f"Content-Encoding {shortened(coding)!r} is not taken: send the body as it is."
        raise Problem(415, "unsupported-media-type", detail)
    return request.body


def too_large(detail: str) -> Problem:
    """413."""
    return Problem(413, "payload-too-large", detail)


def too_large_body() -> Problem:
    """413 for a whole body."""
    return too_large(f"A body may have {settings.TALLY.max_body_bytes:,} bytes at most.")


def unsupported(name: str, supported: list[str]) -> Problem:
    """415."""
    detail = f"Content-Type {shortened(name)!r} is not one of {', '.join(supported)}."
    return Problem(415, "unsupported-media-type", detail)


def json_body(request: HttpRequest) -> bytes:
    """The body of a call that takes JSON only. Raises `Problem` 413, 415."""
    if (name := media_type(request)) != JSON:
        raise unsupported(name, [JSON])
    return body(request)


def decode(data: bytes, kind: type[T]) -> T:
    """Decode a JSON body as `kind`. Raises `Problem` 400 with the field and the rule."""
    return _decode(_json(kind).decode, data)  # type: ignore[no-any-return, arg-type]


def decode_lines(data: bytes, kind: type[T], within: str) -> list[T]:
    """Decode an NDJSON body, one `kind` per line. `within` is the field that problems name for the whole body. Raises
    `Problem` 400."""
    return _decode(_json(kind).decode_lines, data, within)  # type: ignore[no-any-return, arg-type]


def decode_msgpack(data: bytes, kind: type[T]) -> T:
    """Decode a msgpack body as `kind`. Raises `Problem` 400."""
    return _decode(_msgpack(kind).decode, data)  # type: ignore[no-any-return, arg-type]


@cache
def _json(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@cache
def _msgpack(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def _decode(decoder: Any, data: bytes, within: str = "") -> Any:
    """`within`: the field that the whole body stands for, "" for the body itself."""
    try:
        return decoder(data)
    except UnicodeDecodeError as error:
        raise invalid("body", f"text that is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise invalid("body", "nested too deeply") from error
    except msgspec.DecodeError as error:
        said = str(error)
        at = _AT.search(said)
        rule, field = (said[: at.start()], at["field"]) if at else (said, "")
        raise invalid(within + field if field else "body", rule) from error


def if_version(text: str | None) -> int | None:
    """The version in an If-Match header; None if there is no header. Raises `Problem` 400."""
    if text is None:
        return None
    version = text[1:-1]
    if (
        len(text) < 3
        or text[0] != '"'
        or text[-1] != '"'
        or not (version.isascii() and version.isdigit() and len(version) < 20)
    ):
        raise invalid("If-Match", 'a version in quotes, as in the ETag: "1234567890123456"')
    return int(version)
