"""How every picture looks. Drawn without a screen."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl

mpl.use("Agg")

INK, MUTED, GRID = "#1f2933", "#66737f", "#e3e7eb"
BLUE, ORANGE, PALE = "#0b6e99", "#c2571a", "#b4bec7"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
