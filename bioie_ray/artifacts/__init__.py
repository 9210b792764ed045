"""Versioned outputs: atomic writes, shard markers, records, and fingerprints that say what made them."""
