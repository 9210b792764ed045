"""Train a recipe's cross-encoder reranker on its training documents.

python jobs/train_reranker.py --recipe jobs/recipes/select_demo.yaml --set store=/tmp/store
"""

import sys

from bioie_ray.pipeline.job import main

if __name__ == "__main__":
    sys.exit(main("train_reranker", __doc__ or ""))
