"""Select the in-context examples of every query: retrieve, rerank, choose.

python jobs/select_examples.py --recipe jobs/recipes/select_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("select_examples", __doc__ or ""))
