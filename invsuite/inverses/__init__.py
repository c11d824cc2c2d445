"""Inverse networks: plain modules from one representation of a chain back to another, chosen by their layouts."""
