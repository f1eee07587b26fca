"""Mini-Omni: one stack hears, and says a text token and seven codes a step."""
