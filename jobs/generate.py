"""Ask a model about every query: choose examples, write prompts, sample answers.

python jobs/generate.py --recipe jobs/recipes/icl_grid_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("generate", __doc__ or ""))
