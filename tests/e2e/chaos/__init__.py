"""Edits are published while everything fails; at the end nothing may be lost."""
