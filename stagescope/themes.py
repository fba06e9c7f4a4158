"""The app's own colours: dark, light and high-contrast, and what stands for them where a terminal has 16 colours or none."""

from __future__ import annotations

from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

# Okabe and Ito's colours (2008), told apart with every common colour blindness; no meaning rests on hue.
DARK = Theme(
    name="stagescope",
    primary="#56B4E9",
    secondary="#CC79A7",
    accent="#E69F00",
    warning="#F0E442",
    error="#F08A4B",
    success="#56B4E9",
    foreground="#D8DCE2",
    background="#101216",
    surface="#16191F",
    panel="#20242C",
    dark=True,
)
LIGHT = Theme(  # the same hues, darkened until each has 4.5:1 on the background (WCAG 2.2, 1.4.3)
    name="stagescope-light",
    primary="#00619A",
    secondary="#9C3F75",
    accent="#8A5A00",
    warning="#6F6500",
    error="#A84300",
    success="#00619A",
    foreground="#1C2026",
    background="#FAFAF7",
    surface="#F1F1EC",
    panel="#E4E5DF",
    dark=False,
)
CONTRAST = Theme(  # 7:1 and more on black (WCAG 2.2, 1.4.6)
    name="stagescope-contrast",
    primary="#7FD0FF",
    secondary="#FFB0DC",
    accent="#FFC23D",
    warning="#FFF36B",
    error="#FFAE80",
    success="#7FD0FF",
    foreground="#FFFFFF",
    background="#000000",
    surface="#000000",
    panel="#1C1C1C",
    dark=True,
)
# The terminal's own colours. Plain ANSI blue on black cannot be read in xterm; cyan can, and on white blue.
DARK_16, LIGHT_16 = (
    replace(BUILTIN_THEMES[name], name=own, primary=primary, variables=BUILTIN_THEMES[name].variables | {"link-color": primary})
    for name, own, primary in (("ansi-dark", "stagescope-16", "ansi_bright_cyan"), ("ansi-light", "stagescope-16-light", "ansi_blue"))
)
LEAST_CONTRAST = {DARK.name: 1.0, CONTRAST.name: 7.0}  # of all that is drawn; of other themes 3
HOUSE = (DARK, LIGHT, CONTRAST, DARK_16, LIGHT_16)


def for_few_colours(name: str) -> str:
    """The theme of 16 colours that stands for another: as dark, or as light."""
    theme = next((theme for theme in HOUSE if theme.name == name), None) or BUILTIN_THEMES[name]
    return name if theme.ansi else (DARK_16 if theme.dark else LIGHT_16).name
