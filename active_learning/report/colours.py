"""Colours on a white and on a dark ground: the luminance and contrast of WCAG 2.2, and what a colour becomes there.

Figures are drawn on white. `for_both_grounds` adds to an SVG what its colours are for a reader who has asked for dark
pages: each has the contrast to the dark ground that it had to white, so what stood out still does, and light and dark
change places in text, cells and lines alike.
"""

import re

import numpy as np
import numpy.typing as npt

WHITE, DARK = "#ffffff", "#161616"
INK = "#1b1f24"  # of all letters; named, since an SVG leaves black out and a style could not find it

_TO_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_PAINTED = re.compile(rb"(fill|stroke): (#[0-9a-f]{6})")


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb`, 0 to 1.

    >>> luminance("#000000"), luminance("#ffffff")
    (0.0, 1.0)
    """
    return float(_linear(colour) @ _TO_LUMINANCE)


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours, 1 to 21.

    >>> round(contrast("#ffffff", "#000000"), 3)
    21.0
    """
    darker, lighter = sorted([luminance(first), luminance(second)])
    return (lighter + 0.05) / (darker + 0.05)


def on_dark(colour: str) -> str:
    """Return a colour's like on the dark ground: of its hue, and of the contrast that it has on white.

    Black would need more contrast than there is, and becomes white.

    >>> on_dark("#ffffff"), on_dark("#000000")
    ('#161616', '#ffffff')
    """
    wanted = min(1.0, contrast(colour, WHITE) * (luminance(DARK) + 0.05) - 0.05)
    rgb = _linear(colour)
    if rgb.any():  # as bright as the hue can be; what is missing then is white
        rgb = rgb * min(wanted / (rgb @ _TO_LUMINANCE), 1 / rgb.max())
    left = max(0.0, wanted - rgb @ _TO_LUMINANCE)
    rgb = rgb + left / (1 - rgb @ _TO_LUMINANCE + 1e-12) * (1 - rgb)
    encoded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * float(value)):02x}" for value in encoded.clip(0, 1))


def for_both_grounds(svg: bytes) -> bytes:
    """Return a figure with its colours for dark pages; a program that knows no such style draws it as before."""
    painted = sorted({(kind.decode(), colour.decode()) for kind, colour in _PAINTED.findall(svg)})
    rules = "".join(
        f'[style*="{kind}: {colour}"]{{{kind}: {on_dark(colour)} !important}}\n' for kind, colour in painted
    )
    style = f'<style type="text/css">@media (prefers-color-scheme: dark) {{\n{rules}}}</style>\n'
    return svg.replace(b"</svg>", style.encode() + b"</svg>")


def _linear(colour: str) -> npt.NDArray[np.float64]:
    encoded = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
