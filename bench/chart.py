"""A chart of bars as SVG, on a scale of tenfold steps: no library draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_LEFT, _WIDTH, _LINE, _TOP = 210, 470, 24, 44
_COLOURS = {"floor": "#9aa0a6", "ours": "#1a73e8", "peer": "#e8710a"}


def bars(title: str, values: Sequence[tuple[str, float, str]]) -> str:
    """`values`: a name, milliseconds, and whose it is: `floor`, `ours` or `peer`."""
    low = math.floor(math.log10(min(value for _, value, _ in values)))
    high = math.ceil(math.log10(max(value for _, value, _ in values)))
    step = _WIDTH / max(1, high - low)
    bottom = _TOP + _LINE * len(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 90}" '
        f'height="{bottom + 30}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        x = _LEFT + (power - low) * step
        parts += [
            f'<line x1="{x:.0f}" y1="{_TOP - 6}" x2="{x:.0f}" y2="{bottom}" stroke="#dadce0"/>',
            f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{10.0**power:g} ms</text>',
        ]
    for number, (name, value, whose) in enumerate(values):
        y = _TOP + _LINE * number
        width = (math.log10(value) - low) * step
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="16" fill="{_COLOURS[whose]}"/>',
            f'<text x="{_LEFT + width + 6:.0f}" y="{y + 13}">{value:.1f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
