"""Recipes: frozen pydantic models that import neither ray nor torch, so that ``bioie --help`` stays fast."""
