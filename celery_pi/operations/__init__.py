"""Operations that pyinfra lacks, each with its fact beside it."""
