"""How good chosen examples and rankings are: gold coverage, nDCG, and the page that shows them."""
