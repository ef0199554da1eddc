"""Inputs: what is put beside a task before it starts."""
