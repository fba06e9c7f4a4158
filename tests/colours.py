"""Colours as people see them: CIE lightness and distance, contrast, and colour blindness simulated."""

from __future__ import annotations

import numpy as np

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
WHITE = TO_XYZ @ np.ones(3)


def rgb(text: str) -> np.ndarray:
    """#rrggbb or rgb(r,g,b) -> 0 to 1."""
    if text.startswith("#"):
        return np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.array([int(part) for part in text.removeprefix("rgb(").rstrip(")").split(",")]) / 255


def linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def lab(colour: np.ndarray, blindness: str = "none") -> np.ndarray:
    """CIE L*a*b*, D65, as somebody with that colour blindness sees it."""
    seen = np.clip(BLINDNESS[blindness] @ linear(colour), 0, 1)
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in TO_XYZ @ seen / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(a: np.ndarray, b: np.ndarray, blindness: str = "none") -> float:
    """CIE76; about 2 can just be seen side by side."""
    return float(np.linalg.norm(lab(a, blindness) - lab(b, blindness)))


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """WCAG 2."""
    high, low = sorted((float(TO_XYZ[1] @ linear(c)) for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
