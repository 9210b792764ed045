"""Review answers: read them, and let two evaluators convert those that are no list.

python jobs/dmcr.py --recipe jobs/recipes/icl_grid_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("dmcr", __doc__ or ""))
