"""Reward models: five published ones, further ones, and the panel that asks them all."""
