"""The page on which people decide what two evaluators could not."""
