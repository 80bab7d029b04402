"""Fault injection: break a run of the workflow on purpose, run the same command again, compare every byte.

`python -m faults` runs the campaign (`make faults`); `python -m faults.twice` compares two clones. Not installed: a
tool of the checkout, like `bench`. docs/reliability.md holds what it measured.
"""
