"""tbd"""
from typing import Any
def compare(*a: Any, **k: Any) -> dict[str, Any]:
    return {}
