"""A run of pyinfra as one deploy: one at a time, kept in a history, and a way back.

- `lock`: the lock on the Pi, with a lease that its holder renews
- `history`: the records of deploys on the Pi, which `celery-pi deploys` shows
- `run`: pyinfra's hooks; the first operation of a run takes the lock, the last closes the record
- `source`: the commit that is deployed, from git on this machine
- `rollback`: `make rollback`
"""
