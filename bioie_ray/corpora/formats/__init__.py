"""One file a source format; each holds readers that conform to ``bioie_ray.corpora.reading.Reader``."""
