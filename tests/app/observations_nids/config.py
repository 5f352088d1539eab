"""Settings from the environment and `.env`, the environment first (pydantic-settings' order)."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

BASE_DIR = Path(__file__).resolve().parent.parent
ENV_FILE = BASE_DIR / ".env"


class CelerySettings(BaseSettings):
    """Reads `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`; like the real project it has
    a default without a password, so a misspelt variable goes unnoticed by the project itself."""

    model_config = SettingsConfigDict(env_prefix="CELERY_", env_file=ENV_FILE, extra="ignore")

    broker_url: str = "redis://127.0.0.1:6379/0"
    result_backend: str = "redis://127.0.0.1:6379/0"
    key_prefix: str = ""


class SiteSettings(BaseSettings):
    """The site's own values."""

    model_config = SettingsConfigDict(env_file=ENV_FILE, extra="ignore")

    debug: bool = False
    secret_key: str
    allowed_hosts: list[str] = []


celery = CelerySettings()
site = SiteSettings()
