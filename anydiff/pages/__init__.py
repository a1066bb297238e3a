"""Pages to look at: one HTML file that needs no other, and opens without a network."""

from anydiff.pages.page import Page, facts, figures, film, frames_of, lines, picture

__all__ = ["Page", "facts", "figures", "film", "frames_of", "lines", "picture"]
