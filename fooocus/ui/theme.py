"""Gradio's theme variables set to ours: quiet surfaces, one accent colour, system fonts, no shadow, no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

# name: (light, dark)
COLOURS: Mapping[str, tuple[str, str]] = {
    "ground": ("#fafafa", "#0f1115"),
    "surface": ("#ffffff", "#171a21"),
    "line": ("#e4e7ee", "#262b36"),
    "text": ("#15181e", "#e8eaf0"),
    "muted": ("#5b6472", "#9aa3b2"),
    "accent": ("#3b5bdb", "#7c9cff"),
    "on_accent": ("#ffffff", "#0f1115"),
    "clear": ("transparent", "transparent"),
}
# Which of Gradio's variables take which colour.
_USES: Mapping[str, str] = {
    "body_background_fill": "ground",
    "body_text_color": "text",
    "body_text_color_subdued": "muted",
    "background_fill_primary": "surface",
    "background_fill_secondary": "ground",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "color_accent_soft": "line",
    "link_text_color": "accent",
    "link_text_color_hover": "accent",
    "link_text_color_active": "accent",
    "link_text_color_visited": "accent",
    "block_background_fill": "clear",
    "block_border_color": "clear",
    "block_label_background_fill": "clear",
    "block_label_text_color": "text",
    "block_title_text_color": "text",
    "block_info_text_color": "muted",
    "panel_background_fill": "clear",
    "input_background_fill": "surface",
    "input_background_fill_focus": "surface",
    "input_border_color": "line",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "muted",
    "checkbox_background_color": "surface",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "muted",
    "checkbox_border_color_focus": "accent",
    "checkbox_border_color_selected": "accent",
    "checkbox_label_background_fill": "surface",
    "checkbox_label_background_fill_hover": "surface",
    "checkbox_label_background_fill_selected": "surface",
    "checkbox_label_border_color": "line",
    "checkbox_label_border_color_selected": "accent",
    "checkbox_label_text_color": "text",
    "slider_color": "accent",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent",
    "button_primary_border_color": "accent",
    "button_primary_text_color": "on_accent",
    "button_secondary_background_fill": "surface",
    "button_secondary_background_fill_hover": "surface",
    "button_secondary_border_color": "line",
    "button_secondary_text_color": "text",
}


def make_theme() -> Any:
    """Return the theme."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    values: dict[str, str] = {}
    for variable, colour in _USES.items():
        values[variable], values[variable + "_dark"] = COLOURS[colour]
    return theme.set(**values)
