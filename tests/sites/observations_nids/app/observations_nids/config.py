"""Settings from the environment and `.env`, the environment first."""

from pathlib import Path

from pydantic import BaseModel
from pydantic_settings import BaseSettings, SettingsConfigDict

BASE_DIR = Path(__file__).resolve().parent.parent


class CeleryConfig(BaseModel):
    broker_url: str = "redis://127.0.0.1:6379/0"
    result_backend: str = "redis://127.0.0.1:6379/0"


class Config(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=BASE_DIR / ".env", env_nested_delimiter="__", extra="ignore"
    )

    debug: bool = False
    secret_key: str
    allowed_hosts: list[str] = []
    db_name: str
    db_user: str
    db_password: str
    mail_host: str = ""
    mail_port: str = ""  # shown as it was read: whoever reads `.env` otherwise is found out
    lang_: str = ""
    celery: CeleryConfig = CeleryConfig()


config = Config()
