"""/v1/schema and /v1/docs: the OpenAPI document and Swagger UI, which loads files only from this server."""

from __future__ import annotations

from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from counters.api.base import ApiView


class SchemaView(ApiView, SpectacularAPIView):
    """The OpenAPI document, in YAML or JSON."""


class DocsView(ApiView, SpectacularSwaggerView):
    """Swagger UI for the document; its template gives the page's script and style the nonce of its policy."""

    template_name = "counters/docs.html"
