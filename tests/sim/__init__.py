"""Deterministic simulation: two real Brokers, everything around them a toy, one seeded random generator drives it all."""
