"""Score answers as they stand, undressed, and after review, with intervals and kinds of errors.

python jobs/evaluate.py --recipe jobs/recipes/icl_grid_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("evaluate", __doc__ or ""))
