"""Tune a model on instructions: PreFt, the first stage of DFPO, by LoRA, QLoRA or in all weights.

python jobs/train_preft.py --recipe jobs/recipes/preft_gemma3_270m.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("train_preft", __doc__ or ""))
