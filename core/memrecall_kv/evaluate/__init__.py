"""Measures of answers and of recalled evidence."""
