"""Embed the documents of a recipe's corpora as unit vectors.

python jobs/embed.py --recipe jobs/recipes/select_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("embed", __doc__ or ""))
