"""What is read of a machine: facts that preflight, tasks and operations decide by.

The rule of where a fact stands: the state of one operation stands in the module of that operation,
below `operations/`, whoever else reads it. What preflight alone judges stands with the judgement,
below `preflight/`. Every other fact stands here, with the sentences that follow from it alone. So a
module here has no operation, and a module of `operations/` has one. A password is no fact, because
pyinfra echoes what a fact prints (`shell.read_quietly`).
"""
