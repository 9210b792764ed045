"""Tune once more on instructions (Post-Ft, the third stage of DFPO) on top of DPOP.

python jobs/train_postft.py --recipe jobs/recipes/dfpo_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("train_postft", __doc__ or ""))
