"""Channels to other hosts over ssh."""
