"""The language model's head over the tokens that count, on a CPU too.

Gemma 3's head has 262,144 words: over every token it is most of a small model's work, and over a long batch its logits dwarf the model.
TRL's fused head (``trl.trainer.utils.add_fused_lm_head``) never holds them all, and on a GPU it scores only tokens with a label. Elsewhere
it scores every token, so that shapes stay the same for compilers of other accelerators, which a CPU has no use for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trl.trainer.utils as trl_utils


@contextmanager
def answers_only() -> Iterator[None]:
    """Meanwhile TRL's fused head scores only tokens with a label, on every device.

    The name is TRL 1.16's own and private; ``tests/training/test_answer_head.py`` fails when it no longer decides this.
    """
    before = trl_utils._use_triton  # noqa: SLF001
    trl_utils._use_triton = lambda device: device.type == "cpu" or before(device)  # noqa: SLF001
    try:
        yield
    finally:
        trl_utils._use_triton = before  # noqa: SLF001
