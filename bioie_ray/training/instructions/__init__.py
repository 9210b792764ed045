"""Instruction data: readers of published forms, our own tasks as conversations, and how both are curated."""
