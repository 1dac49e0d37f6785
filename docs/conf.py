"""Sphinx configuration. The pages of the verbs are written anew at every build; nothing needs the network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate_verbs

generate_verbs.write_pages(Path(__file__).parent / "verbs")

project = "frazil"
author = "the frazil developers"
copyright = "2026, the frazil developers"
extensions = ["myst_parser", "mathml"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "frazil"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["frazil.css"]
html_show_sourcelink = False
