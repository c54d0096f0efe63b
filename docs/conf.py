"""How these pages are built: ``python -m sphinx -W -b html docs docs/_build/html``."""

project = "tinyres"
copyright = "the tinyres authors"

extensions = ["myst_parser", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]

html_theme = "alabaster"
html_theme_options = {
    "description": "Residual networks, derived and computed",
    "page_width": "1240px",
    "body_max_width": "980px",
    "sidebar_width": "220px",
    "fixed_sidebar": True,
    "show_powered_by": False,
}
html_static_path = ["_static"]
html_css_files = ["code.css"]
html_sidebars = {"**": ["about.html", "localtoc.html", "navigation.html", "searchbox.html"]}
html_show_sourcelink = False
pygments_style = "friendly"
