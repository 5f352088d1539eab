"""What goes before `deploy.py` when `make rollback` deploys an earlier source again."""

from tasks import rollback

rollback.deploy()
