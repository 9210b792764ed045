"""Instruction data, preference pairs, and the training stages of DFPO."""
