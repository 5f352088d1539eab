"""What is read of a machine: facts that preflight, tasks and operations decide by.

The rule of where a fact stands: one that a single operation compares its state with stands beside
that operation in `operations/`, also when another operation reads it through that module. One that
only preflight judges stands beside the judgement in `preflight/`. Every other one stands here, with
the sentences that follow from it alone. What a fact runs stands in `shell/` once it is longer than
four lines. Secrets are no facts, because pyinfra echoes what a fact prints: `shell.read_quietly`.
"""
