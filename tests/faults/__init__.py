"""What faults cost: each is made on a virtual Pi under load, with our configuration and with
another, and what became of 200 tasks is counted. `python -m tests.faults` writes the table."""
