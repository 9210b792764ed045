"""Pairs of a right and a wrong answer: the gold answer, and one that a model gave or that was made from the gold."""
