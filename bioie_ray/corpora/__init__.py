"""Corpora: source formats in, one row a document out, and the eight tasks as views over them."""
