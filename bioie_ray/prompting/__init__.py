"""From a query and its examples to a prompt, and from an answer's text to a list."""
