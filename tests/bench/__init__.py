"""How fast it is, beside what a user would take instead: `python -m tests.bench`."""
