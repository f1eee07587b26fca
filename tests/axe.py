"""What axe-core finds on the page: its colours in both themes, all else in every language."""

from __future__ import annotations

import pytest
from browser import playwright

AXE = pytest.importorskip("axe_playwright_python.base").AXE_SCRIPT
# The theme changes colours alone, the language all else: what one can't change is looked at once,
# as the rules about colours take most of the time.
COLOUR_RULES = ["color-contrast", "link-in-text-block"]
COLOURLESS = {"rules": {rule: {"enabled": False} for rule in COLOUR_RULES}}
RULES = {
    "en": {"light": {}, "dark": {"runOnly": COLOUR_RULES}},
    "zh": {"light": COLOURLESS},
}
RUN = "options => axe.run({ resultTypes: ['violations'], ...options })"
SET_THEME = "theme => document.body.classList.toggle('dark', theme === 'dark')"
# Colours change slowly; what moves for ever or changes its place alone, as the bars and the time
# that a notice has left do, may go on.
RESTS = """() => {
  const place = ["transform", "offset", "computedOffset", "easing", "composite"];
  const isPlace = (frame) => Object.keys(frame).every((key) => place.includes(key));
  return document.getAnimations().every(
    ({ playState, effect }) =>
      playState !== "running" ||
      effect.getKeyframes().every(isPlace) ||
      effect.getComputedTiming().endTime === Infinity
  );
}"""


def violations(page: playwright.Page, state: str) -> list[str]:
    """What axe finds, of any impact; whoever asks does so in both languages."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE)
    found = []
    language = page.evaluate("document.documentElement.lang")
    for theme, options in RULES[language[:2]].items():
        page.evaluate(SET_THEME, theme)
        page.wait_for_function(RESTS)
        for rule in page.evaluate(RUN, options)["violations"]:
            found += [
                f"{state}, {theme}: {rule['id']} ({rule['impact']}): {node['html'][:160]}"
                for node in rule["nodes"]
            ]
    page.evaluate(SET_THEME, "light")
    return found
