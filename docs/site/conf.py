"""Sphinx: the site of `make docs`. Its sources are what pages.py lays out, never docs/ itself."""

project = "Tally"
extensions = ["myst_parser"]
root_doc = "index"
html_theme = "furo"
html_title = "Tally"
html_copy_source = False
html_show_sphinx = False
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
# Every heading can be linked to. A link to one that is not there is a warning, and `make docs` makes errors of warnings.
myst_heading_anchors = 6
nitpicky = True
# docs/ has blocks of the highlighter's names, and JSON with `…` for what is left out.
suppress_warnings = ["misc.highlighting_failure"]
