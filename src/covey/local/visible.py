"""Texts of others, on a terminal."""

from __future__ import annotations


def visible(text: str) -> str:
    """Show what a terminal would obey: a message's texts come from elsewhere."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)
