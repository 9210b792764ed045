"""Engines: prompts in, answers out."""
