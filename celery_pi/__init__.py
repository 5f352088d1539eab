"""What the tasks share: settings, preflight, secrets, and the operations pyinfra lacks."""
