"""Prepare the corpora of a recipe as parquet shards.

python jobs/prepare_corpora.py --recipe jobs/recipes/select_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("prepare_corpora", __doc__ or ""))
