"""The REST API: views, media types, problem documents, authentication, schema.

`views` decode, call `intake` or `reads`, and encode. `requests` alone defines the form of requests, as msgspec types
from which the OpenAPI schema is also generated. Errors are RFC 9457 problem documents (`problems`).
"""
