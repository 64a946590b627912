"""Inputs that are nothing a kiosk's bundle knows; `out_of_distribution.py` writes them to files."""
