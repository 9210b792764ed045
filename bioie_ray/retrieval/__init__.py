"""RAG-ICL: embedding, search, reranking and the selectors of in-context examples."""
