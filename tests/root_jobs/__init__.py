"""Every job of root's on the machine, with traps wherever another user may write."""
