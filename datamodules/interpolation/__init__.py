"""Pairs of images between which others are made."""
