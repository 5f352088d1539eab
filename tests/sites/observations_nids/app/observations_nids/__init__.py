import pymysql

from observations_nids.celery import app as celery_app

pymysql.version_info = (2, 2, 7, "final", 0)  # what Django asks of mysqlclient
pymysql.install_as_MySQLdb()

__all__ = ["celery_app"]
