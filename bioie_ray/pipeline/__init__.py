"""From a recipe to outputs: which steps it needs, which are done, and running the rest in order."""
