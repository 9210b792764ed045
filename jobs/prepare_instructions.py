"""Make the conversations that a model is tuned on: read, check, mix.

python jobs/prepare_instructions.py --recipe jobs/recipes/instructions_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("prepare_instructions", __doc__ or ""))
