"""Valkey, or Redis 6 and newer: one connection that a process shares, and commands that leave together."""
