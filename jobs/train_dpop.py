"""Prefer gold answers to wrong ones (DPO-Positive, the second stage of DFPO) on top of PreFt.

python jobs/train_dpop.py --recipe jobs/recipes/dfpo_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("train_dpop", __doc__ or ""))
