"""Checking this machine against recorded numbers: `python -m ltx2.parity DIR`."""
