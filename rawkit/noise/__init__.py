"""Physically realistic noise."""
