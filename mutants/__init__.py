"""Small faults put into the code on purpose, one at a time: the named tests must notice each of them."""
