"""Make pairs of the gold answer and a wrong one of the tuned model.

python jobs/make_preferences.py --recipe jobs/recipes/dfpo_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("make_preferences", __doc__ or ""))
