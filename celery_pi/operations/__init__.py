"""Operations that pyinfra lacks, each with the fact of its state beside it (`celery_pi.facts`)."""
