"""Django settings of the site. MARKER-OF-SETTINGS-PY-1618033988"""

from observations_nids.config import BASE_DIR, config

DEBUG = config.debug
SECRET_KEY = config.secret_key
ALLOWED_HOSTS = config.allowed_hosts
ROOT_URLCONF = "observations_nids.urls"
WSGI_APPLICATION = "observations_nids.wsgi.application"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django_celery_results",
    "observations",
]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.mysql",
        "NAME": config.db_name,
        "USER": config.db_user,
        "PASSWORD": config.db_password,
        "HOST": "/run/mysqld/mysqld.sock",
        "OPTIONS": {"unix_socket": "/run/mysqld/mysqld.sock", "charset": "utf8mb4"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
MEDIA_ROOT = BASE_DIR / "media"
TIME_ZONE = "Europe/Paris"
USE_TZ = True

CELERY_BROKER_URL = config.celery.broker_url
CELERY_RESULT_BACKEND = config.celery.result_backend
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_RESULT_SERIALIZER = "json"
CELERY_TIMEZONE = "Europe/Paris"
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_TIME_LIMIT = 30 * 60
CELERY_TASK_ACKS_LATE = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE = {"count": {"task": "observations.tasks.count", "schedule": 30}}

# Beside `logs`, which is Celery's.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {
        "file": {
            "class": "logging.handlers.WatchedFileHandler",
            "filename": BASE_DIR / "journaux" / "observations_nids.log",
            "formatter": "line",
        }
    },
    "loggers": {"observations": {"handlers": ["file"], "level": "INFO"}},
}
