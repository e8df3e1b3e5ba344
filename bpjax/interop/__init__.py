"""Adapters to other programs. Each file imports the program that it adapts, and converts units and conventions."""
