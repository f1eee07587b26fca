"""Westlake-Omni: a language model over frames of text and codes, and the codec that speaks them."""
