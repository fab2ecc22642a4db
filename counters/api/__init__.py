"""The REST API: views, media types, problem documents, authentication, schema.

`views` decode, call `intake` or `reads`, and encode; what a request may look like is said once, in `requests` (msgspec
types, from which the OpenAPI schema is made as well). Errors are RFC 9457 problem documents (`problems`).
"""
