"""Runs untrusted programs against their tests, under an isolator and never without one."""
