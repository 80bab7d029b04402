"""What a profile costs before it is run: time, memory, disk, judge calls and statistical power. Torch-free."""
