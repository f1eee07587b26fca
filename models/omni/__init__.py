"""Qwen2.5-Omni: a thinker hears, sees and writes, and a talker speaks behind it meanwhile."""
