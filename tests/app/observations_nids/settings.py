"""Django settings."""

from observations_nids.config import BASE_DIR, site

DEBUG = site.debug
SECRET_KEY = site.secret_key
ALLOWED_HOSTS = site.allowed_hosts
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django_celery_results",
    "observations_nids",
]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "data" / "db.sqlite3"}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MEDIA_ROOT = BASE_DIR / "media"
TIME_ZONE = "Europe/Paris"
USE_TZ = True
