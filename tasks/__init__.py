"""One module a component: packages, files, check, service."""
