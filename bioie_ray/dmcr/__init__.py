"""Dual-model consistency review: what an answer is, two conversions of what does not parse, and a person where they differ."""
