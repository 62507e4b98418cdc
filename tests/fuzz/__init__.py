"""Fuzzing of everything that reads bytes from outside: ``python -m tests.fuzz NAME [--seconds 60]``."""
